"""The metric for `evaluate.load`, by this path or from a Space of the Hub. Needs bioscan_hf to be installed."""

import bioscan_hf.hub.evaluate_metrics


class AdjustedMutualInformation(bioscan_hf.hub.evaluate_metrics.AdjustedMutualInformation):
    __doc__ = bioscan_hf.hub.evaluate_metrics.AdjustedMutualInformation.__doc__

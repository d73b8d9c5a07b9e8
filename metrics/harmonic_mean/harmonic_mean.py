"""`evaluate.load` finds the metric here, by the path of this file or from a Space of the Hub that holds it.

It is that of `bioscan_hf.hub.evaluate_metrics`, which has to be installed.
"""

import bioscan_hf.hub.evaluate_metrics


class HarmonicMean(bioscan_hf.hub.evaluate_metrics.HarmonicMean):
    __doc__ = bioscan_hf.hub.evaluate_metrics.HarmonicMean.__doc__

"""transformers' pipeline "text-classification" for classifiers of several ranks."""

from __future__ import annotations

from typing import Any

from transformers.pipelines import TextClassificationPipeline

from ..models.taxon_classifier import taxa_probabilities

#: Any: its method takes any arguments.
_Pipeline: Any = TextClassificationPipeline


class TaxonTextClassificationPipeline(_Pipeline):
    """transformers' `pipeline("text-classification")`, also for a classifier of several ranks.

    Its labels are the names of the lowest rank; "dna-classification" gives those of every rank.
    """

    def postprocess(
        self, model_outputs: Any, function_to_apply: Any = None, top_k: int | None = 1, _legacy: bool = True
    ) -> Any:
        """{"label", "score"} or a list of them, most probable first; scores are those of `taxa_probabilities`."""
        config = self.model.config
        if getattr(config, "taxa", None) is None:
            return super().postprocess(model_outputs, function_to_apply, top_k, _legacy)
        parts = list(self.model.rank_logits(model_outputs["logits"].float()).values())
        probabilities = taxa_probabilities(parts, [config.parents[rank] for rank in list(config.taxa)[1:]])
        scores, places = probabilities[-1][0].sort(descending=True, stable=True)
        names = list(config.taxa.values())[-1]
        pairs = zip(scores.tolist(), places.tolist(), strict=True)
        found = [{"label": names[place], "score": score} for score, place in pairs]
        return found[0] if top_k == 1 and _legacy else found[:top_k]

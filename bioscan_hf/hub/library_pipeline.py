"""Names of reads by a library of references, as answers of the pipeline "dna-classification"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from ..identification.base import Library
from ..identification.library import ReferenceLibrary
from ..identification.opening import open_library
from ..identification.quality import UNNAMED
from ..identification.stored import MODEL_TYPE

Answer = list[dict[str, Any]]


class ReferenceLibraryConfig(PreTrainedConfig):
    """Says that a folder is a library of references."""

    model_type = MODEL_TYPE


class ReferenceLibraryModel(PreTrainedModel):
    """A library of references where transformers expects a model; `from_pretrained` opens it.

    Attributes:
        library: The library.
    """

    config_class = ReferenceLibraryConfig
    library: Library

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, **options: Any) -> ReferenceLibraryModel:  # type: ignore[override]
        """Opens a folder, or an id of a library on the Hub; options are revision, token and cache_dir."""
        hub = {name: options[name] for name in ("revision", "token", "cache_dir") if options.get(name) is not None}
        model = cls(ReferenceLibraryConfig())
        model.library = open_library(source, **hub)
        return model


def library_of(model: Any) -> Library | None:
    """The library that a pipeline was given; None for another model."""
    return model.library if isinstance(model, ReferenceLibraryModel) else model if isinstance(model, Library) else None


class LibraryAnswers:
    """Answers of a library of references in the form of a pipeline.

    Raises:
        ValueError: for a library of photos.
    """

    def __init__(self, library: Library) -> None:
        if not isinstance(library, ReferenceLibrary):
            raise ValueError("The library is of photos: use its method identify.")
        self.library, self.device = library, torch.device("cpu")

    def __call__(
        self,
        reads: str | Iterable[str],
        top_k: int | None = 1,
        ranks: Sequence[str] | None = None,
        novel_share: float | None = None,
    ) -> Answer | list[Answer]:
        """The answer for a read, or one for each of several; see `DnaClassificationPipeline`."""
        if missing := [rank for rank in ranks or () if rank not in self.library.ranks]:
            raise ValueError(f"The library has no rank {missing[0]!r}. It has {', '.join(self.library.ranks)}.")
        one = isinstance(reads, str)
        rows = self.library.identify([reads] if one else reads, novel_share=novel_share).to_pylist()
        found = [_answer(row, ranks or self.library.ranks, top_k) for row in rows]
        return found[0] if one else found


def _answer(row: dict[str, Any], ranks: Sequence[str], top_k: int | None) -> Answer:
    """{"rank", "label", "score"} of a row of answers; a read without names has one, with its status and note."""
    if row["status"] in UNNAMED:
        return [{"rank": None, "label": None, "score": 0.0, "status": row["status"], "note": row["note"]}]
    found: Answer = []
    for rank in ranks:
        here = [{"rank": rank, "label": row[rank], "score": row[f"{rank}_confidence"]}] if row[rank] else []
        if row.get(f"{rank}_new") is not None:
            here.append({"rank": rank, "label": None, "score": row[f"{rank}_new"]})
        found += sorted(here, key=lambda one: -(one["score"] or 0))[:top_k]
    return found


def register_library() -> None:
    """Registers the folder of a library with the Auto classes."""
    AutoConfig.register(MODEL_TYPE, ReferenceLibraryConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(ReferenceLibraryConfig, ReferenceLibraryModel, exist_ok=True)

"""Robustness of CLIBD to errors in barcodes: embeddings of altered queries, and the report.

Source: CLiBD-HiR, https://arxiv.org/abs/2603.25573
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...encoders.base import Encoder
from ...encoders.clibd import clibd_dna_features
from ...encoders.embed import embed
from ...encoders.fused import fuse_vectors
from ...encoders.stored import load_embeddings
from ...evaluation.retrieval_protocol import Specimens
from ...models.modeling_clibd import ClibdModel
from ..dna_noise import DnaNoise, noisy_rows

#: Queries that have a barcode.
WITH_DNA = ("dna", "averaged", "concatenated", "fused")

#: Combinations of the report, where the model has them; that of photos alone does not change.
REPORTED = (
    "image->image",
    "dna->dna",
    "averaged->averaged",
    "fused->fused",
    "image->text",
    "dna->text",
    "fused->text",
)


def embed_noisy(
    model: ClibdModel, tokenizer: Any, data: Any, split: str, seed: int, output: Path, **options: Any
) -> None:
    """Writes embeddings of altered barcodes to `output`/CONDITION/SPLIT; an interrupted run continues.

    `data` are the rows of the split, with processid and dna_barcode, `seed` is that of `add_noise`, and `options` are
    of `embed`.
    """
    encoder = Encoder(model, clibd_dna_features, description="clibd dna")
    for condition, noise in DnaNoise.conditions().items():
        rows = noisy_rows(data, noise, seed)
        embed(encoder, tokenizer, rows, output=output / condition / split, missing="invalid", **options)


def noisy_specimens(model: ClibdModel, clean: Specimens, folder: Path) -> Specimens:
    """The specimens with the embeddings of altered barcodes in a folder, also where these are fused with photos.

    Raises ValueError if the folder has other specimens.
    """
    found = load_embeddings(folder)
    if found.processids != list(clean.ids):
        raise ValueError(f"{str(folder)!r} has other specimens than the dataset. Choose another --output_dir.")
    embeddings: dict[str, Any] = dict(clean.embeddings) | {"dna": found.embeddings}
    present = dict(clean.present) | {"dna": found.valid}
    if "fused" in embeddings:
        photos = np.asarray(embeddings["image"], np.float32)
        embeddings["fused"] = fuse_vectors(model, photos, found.embeddings, present["image"], found.valid)
        present["fused"] = present["image"] | found.valid
    return Specimens(embeddings, clean.labels, present, clean.ids)


def robustness_text(conditions: Mapping[str, Mapping[str, Any]], ranks: Sequence[str], k: int) -> str:
    """Markdown: macro accuracy in percent of seen / unseen queries at the last rank, a row for each kind of error.

    `conditions` are tables of `evaluate_retrieval` by name of a kind of error; "none" is without errors.
    """
    rank, names = ranks[-1], list(conditions["none"])
    lines = [f"# Macro top-{k} accuracy (%) of {rank} with errors in the barcodes of queries", ""]
    lines += ["seen / unseen species", "", f"| errors | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for condition, tables in conditions.items():
        cells = []
        for name in names:
            of = tables.get(name) or conditions["none"][name]
            values = [of[part]["macro"][k][rank] for part in ("seen", "unseen")]
            cells.append(" / ".join("-" if value is None else f"{100 * value:.1f}" for value in values))
        lines.append(f"| {condition.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"

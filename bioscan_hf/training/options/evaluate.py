"""Options of the evaluation of CLIBD."""

from __future__ import annotations

from dataclasses import dataclass

from ...schema import REPORTED_RANKS
from .shared import option, required


@dataclass
class EvaluateOptions:
    """Options of the evaluation: model or embeddings, and protocol."""

    output_dir: str = required("Folder of the results.")
    model: str | None = option(None, "Folder or Hub id of a CLIBD model with its processor.")
    source: str | None = option(None, "Dataset to embed; also the photos of the gallery.")
    config: str = option("cropped_256", "Image package of the source.")
    embeddings: str | None = option(None, "Folder of embeddings, instead of --model.")
    baseline: str | None = option(None, "Another model or folder of embeddings, to compare with.")
    table: list[str] = option(
        [], "Write only the table that compares finished evaluations: output folders, or NAME=FOLDER."
    )
    evaluate: str = option("test", "Splits of the queries: 'test' or 'val'.")
    key_splits: str = option("train+key_unseen", "Splits of the keys.")
    combinations: list[str] = option([], "Combinations such as 'image->dna'. Default: all of the model.")
    ranks: list[str] = option(list(REPORTED_RANKS), "Ranks, or dna_bin.")
    top_k: list[int] = option([1, 3, 5], "Values of k of the top-k accuracies.")
    ties: str = option("vote", "Rule of the prediction: 'vote', or 'parity' as published.")
    index: str = option("exact", "Search: 'exact', or approximate: 'hnsw', 'ivfpq'.")
    prototypes: str | None = option(None, "Use one key per taxon of this rank, such as species.")
    dna_noise: bool = option(
        False,
        "Also measure with errors in the barcodes of the queries: substitutions, N, insertions, deletions, a lost "
        "run, a cut end, and all.",
    )
    noise_seed: int = option(123, "Seed of these errors.")
    batch_size: int = option(64, "Specimens per forward pass.")
    workers: int = option(0, "Threads that decode photos.")
    dtype: str = option("auto", "'float32', 'bfloat16' or 'auto': bfloat16 on a GPU.")
    plots: bool = option(False, "Write the figures.")
    save_index: str | None = option(None, "Write an index of the keys of this modality to the folder `index`.")
    force: bool = option(False, "Replace existing results.")

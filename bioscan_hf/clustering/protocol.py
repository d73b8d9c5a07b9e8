"""Task II from embeddings on disk: specimens are joined, clustered and written.

Protocol: BIOSCAN-5M (https://arxiv.org/abs/2406.12723): test and test_unseen together, in the order of the processids.
Shape letters: N = specimens, D = embedding size of a modality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from ..dataset.load import rows_of
from ..dataset.sequences import is_sequence_file
from ..encoders.stored import MANIFEST, folder_of, load_embeddings, named
from ..files import delete_inside, read_json, replacing
from ..progress import Progress, silent
from ..provenance import write_results
from ..schema import LABEL_COLUMNS
from .cluster import PRESETS, cluster_runs, summary
from .embeddings import Floats, checked_embeddings
from .methods import FREE

SPLITS = ("test", "test_unseen")

RESULTS_FILE, CLUSTERS_FILE = "results.json", "clusters.parquet"


@dataclass(frozen=True)
class JoinedSpecimens:
    """Specimens with all modalities, sorted by processid.

    Attributes:
        labels: Rank or "dna_bin" -> names (N,), None where missing.
        splits: Split of each (N,).
        dropped: Modality -> processids that are left out because only other modalities have them.
        about: For results.json: dataset, embeddings (modality -> folder) and encoders (modality -> description).
    """

    processids: list[str]
    embeddings: dict[str, Floats]
    labels: dict[str, list[str | None]]
    splits: list[str]
    dropped: dict[str, list[str]]
    about: dict[str, Any]


def join_by_processid(
    modalities: Mapping[str, tuple[Sequence[str], ArrayLike]], *, missing: str = "error"
) -> tuple[list[str], dict[str, Floats], dict[str, list[str]]]:
    """Aligns modalities: row i is the same specimen in each.

    Args:
        modalities: Name -> processids (n,) and embeddings (n, D).
        missing: For a specimen that a modality does not have: "error", or "drop" it from all.

    Returns:
        Processids in ascending order (N,), name -> embeddings (N, D), and name -> processids that it does not have.

    Raises:
        ValueError: for modalities that are none, repeat a processid, have embeddings of another length, or have
            different specimens (they are named) that are not dropped.
    """
    if missing not in ("error", "drop") or not modalities:
        raise ValueError(f"Join one modality or more, with missing='error' or 'drop'; got {missing!r}.")
    places = {}
    for name, (processids, vectors) in modalities.items():
        places[name] = {processid: row for row, processid in enumerate(processids)}
        if len(places[name]) < len(processids):
            twice = [processid for processid, times in Counter(processids).items() if times > 1]
            raise ValueError(f"The modality {name!r} has {named(twice)} more than once.")
        if len(np.asarray(vectors)) != len(processids):
            raise ValueError(f"{name!r} has {len(np.asarray(vectors))} embeddings for {len(processids)} processids.")
    everyone = sorted(set().union(*places.values()))
    absent = {name: [one for one in everyone if one not in of_name] for name, of_name in places.items()}
    absent = {name: those for name, those in absent.items() if those}
    if absent and missing == "error":
        without = "; ".join(f"{name!r} does not have {len(those)}: {named(those)}" for name, those in absent.items())
        raise ValueError(
            f"The modalities have different specimens: {without}. Embed them, or pass "
            f"--missing drop (in Python missing='drop')."
        )
    left_out = {one for those in absent.values() for one in those}
    processids = [one for one in everyone if one not in left_out]
    if not processids:
        raise ValueError(f"No specimen is in all of the modalities {', '.join(modalities)}.")
    taken = {
        name: np.asarray(vectors, np.float32)[[places[name][one] for one in processids]]
        for name, (_, vectors) in modalities.items()
    }
    return processids, taken, absent


def read_specimens(
    source: str | Path, folders: Mapping[str, str | Path], *, splits: Sequence[str] = SPLITS, missing: str = "error"
) -> JoinedSpecimens:
    """Embeddings on disk, joined, with the labels of their dataset `source`.

    A specimen is missing in a modality if its embedding is not valid (a barcode shorter than k, no photo). A specimen
    that no modality has, such as one left out by `--unique-barcodes`, is not missing.

    Args:
        source: As in `load_bioscan5m`; or the file of sequences that was embedded, whose labels `bioscan-hf embed`
            writes with the embeddings.
        folders: Modality -> folder with a subfolder for each split, as `bioscan-hf embed` or the evaluation of CLIBD
            writes it; of the latter, the modality of that name ("image", "dna" or "text"). Of a file of sequences, the
            folder itself.
        missing: "error" or "drop".

    Raises:
        FileNotFoundError: if a split is not embedded.
        ValueError: as `join_by_processid`; and if different models embedded the splits, embeddings are NaN or
            infinite, or specimens are not in the splits of the source.
    """
    own = is_sequence_file(source)
    parts: dict[str, tuple[list[str], Floats]] = {}
    absent: dict[str, list[str]] = {}
    encoders = {}
    for name, folder in folders.items():
        if own and not (Path(folder) / MANIFEST).is_file():
            raise FileNotFoundError(
                f"No embeddings of {str(source)!r} in {str(folder)!r}: run `bioscan-hf embed` first."
            )
        of_splits = [Path(folder)] if own else [Path(folder) / split for split in splits]
        encoders[name] = _one_encoder([folder_of(path, name) for path in of_splits])
        found = [load_embeddings(path, name) for path in of_splits]
        valid = np.concatenate([part.valid for part in found])
        everyone = [processid for part in found for processid in part.processids]
        vectors = np.concatenate([part.embeddings for part in found])[valid]
        parts[name] = ([one for one, there in zip(everyone, valid, strict=True) if there], vectors)
        absent[name] = [one for one, there in zip(everyone, valid, strict=True) if not there]
    invalid = "; ".join(f"{len(those)} of {name!r}: {named(those)}" for name, those in absent.items() if those)
    if invalid and missing == "error":
        raise ValueError(f"Some embeddings are not valid ({invalid}). Pass --missing drop (in Python missing='drop').")
    processids, embeddings, dropped = join_by_processid(parts, missing=missing)
    for name, those in absent.items():
        dropped[name] = sorted({*dropped.get(name, []), *those})
    if own:
        of_split = [Path(source).name] * len(processids)
        labels = _own_labels(*next(iter(folders.items())), processids)
    else:
        table = rows_of(source, "+".join(splits), processids, ("split", *LABEL_COLUMNS))
        of_split, labels = table["split"].to_pylist(), {rank: table[rank].to_pylist() for rank in LABEL_COLUMNS}
    where = {name: str(folder) for name, folder in folders.items()}
    return JoinedSpecimens(
        processids,
        checked_embeddings(embeddings, processids),
        labels,
        of_split,
        {name: those for name, those in dropped.items() if those},
        {"dataset": str(source), "embeddings": where, "encoders": encoders},
    )


def _own_labels(name: str, folder: str | Path, processids: Sequence[str]) -> dict[str, list[str | None]]:
    """Labels that were written with the embeddings of a file; None for ranks that it does not have."""
    found = load_embeddings(folder, name)
    place = {processid: row for row, processid in enumerate(found.processids)}
    rows, nothing = [place[processid] for processid in processids], [None] * len(place)
    columns = {rank: found.columns.get(rank, nothing) for rank in LABEL_COLUMNS}
    return {rank: [column[row] for row in rows] for rank, column in columns.items()}


def cluster_embeddings(
    specimens: JoinedSpecimens,
    output: str | Path,
    *,
    preset: str = "ward",
    seeds: Sequence[int] | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> dict[str, Any]:
    """Clusters specimens, writes results.json and clusters.parquet, and returns the results.

    clusters.parquet has the columns processid, split, cluster (of the first seed), cluster_seed_S of further seeds,
    the ranks and the BIN. In the results, `metrics` is rank -> score, the mean over the seeds, and `spread` the
    standard deviations, None for one seed. A rank without any name has scores of None.

    Args:
        preset: One of `PRESETS`; its options apply where none are given.
        seeds: One run each; None is the seed of the preset.
        options: Those of `zero_shot_cluster`, see `preset_options`. If the preset asks for as many clusters as there
            are names of a rank, and there are none, the silhouette chooses their number.

    Raises:
        FileExistsError: if the folder has results, unless `force`.
        ValueError: as `zero_shot_cluster`, and for an unknown preset.
    """
    output = Path(output)
    there = [str(output / name) for name in (RESULTS_FILE, CLUSTERS_FILE) if (output / name).exists()]
    if there and not force:
        raise FileExistsError(
            f"{there[0]!r} exists. Choose another folder, or replace it with --force (in Python force=True)."
        )
    how = preset_options(preset, **options)
    if "n_clusters" not in options and not any(specimens.labels.get(how["n_clusters"], [True])):
        how["n_clusters"] = "silhouette"
    seed = how.pop("seed")
    seeds = (seed,) if seeds is None else tuple(seeds)
    runs = cluster_runs(specimens.embeddings, specimens.labels, seeds=seeds, progress=progress, **how)
    delete_inside(output, RESULTS_FILE)  # results never stand beside the clusters of another run
    columns = {"processid": specimens.processids, "split": specimens.splits, "cluster": runs[0].clusters}
    columns |= {f"cluster_seed_{run.options['seed']}": run.clusters for run in runs[1:]}
    columns |= {rank: pa.array(names, pa.string()) for rank, names in specimens.labels.items()}
    with replacing(output / CLUSTERS_FILE) as part:
        pq.write_table(pa.table(columns), part)
    means = summary(runs)
    changed = sorted(key for key, value in how.items() if value != PRESETS[preset].get(key))
    return write_results(
        output / RESULTS_FILE,
        task="bioscan5m/clustering",
        protocol=preset + (f", with other {', '.join(changed)}" if changed else ""),
        options={key: value for key, value in runs[0].options.items() if key != "seed"},
        seeds=list(seeds),
        chosen=[run.chosen for run in runs],
        splits=dict(sorted(Counter(specimens.splits).items())),
        specimens=len(specimens.processids),
        dropped=specimens.dropped,
        modalities={name: x.shape[1] for name, x in specimens.embeddings.items()},
        **specimens.about,
        seconds=[run.seconds for run in runs],
        metrics=means["mean"],
        spread=means["std"],
        runs=[{"metrics": run.metrics, "separation": run.separation} for run in runs],
    )


def preset_options(preset: str, **options: Any) -> dict[str, Any]:
    """Arguments of `zero_shot_cluster`: those of a preset, except where others are given.

    With another reducer than the preset's, its own defaults apply. With a distance threshold, or a clusterer that
    finds the number of clusters, the number of the preset does not apply. An unknown preset is a ValueError.

    Example:
        >>> preset_options("published", reducer="none")["reducer_options"]
        {}
    """
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}. Choose one of {', '.join(PRESETS)}.")
    how = {**PRESETS[preset], **options}
    if how["reducer"] != PRESETS[preset]["reducer"]:
        how["reducer_options"] = options.get("reducer_options", {})
    elif "reducer_options" in options:
        how["reducer_options"] = {**PRESETS[preset]["reducer_options"], **(options["reducer_options"] or {})}
    if how["clusterer"] in FREE or how.get("distance_threshold") is not None:
        how["n_clusters"] = options.get("n_clusters")
    return how


def _one_encoder(folders: Sequence[Path]) -> dict[str, Any]:
    """The one encoder of a modality's splits, as their manifests describe it."""
    found: list[dict[str, Any]] = []
    for folder in folders:
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"No embeddings of {folder.name!r} in {str(folder.parent)!r}: run `bioscan-hf embed`, or choose the "
                f"embedded splits (--split)."
            )
        manifest = read_json(folder / MANIFEST)
        found.append({key: manifest[key] for key in ("model", "processor", "precision", "dim") if key in manifest})
    # Counts of different k-mers differ only in `dim`, which is there when the whole split is embedded.
    if any(len({about[key] for about in found if key in about}) > 1 for key in ("model", "dim")):
        raise ValueError(
            f"Different models embedded {' and '.join(folder.name for folder in folders)} in "
            f"{str(folders[0].parent)!r}, so their vectors cannot be compared. Embed all splits with one model."
        )
    return found[0]

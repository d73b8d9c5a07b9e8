"""Task II from embeddings on disk: specimens of several splits and modalities are joined, clustered and written.

Protocol: BIOSCAN-5M (https://arxiv.org/abs/2406.12723): test and test_unseen together, in the order of the processids.
Shape letters: N = specimens, D = embedding size of a modality.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from ..dataset.load import load_bioscan5m
from ..encoders.embed import load_embeddings
from ..evaluation.retrieval_embeddings import load_specimens
from ..files import read_json
from ..provenance import write_results
from ..schema import LABEL_COLUMNS
from .cluster import PRESETS, Clustering, cluster_runs, side_by_side, summary
from .methods import FREE, Floats, named_rows

SPLITS = ("test", "test_unseen")


@dataclass(frozen=True)
class JoinedSpecimens:
    """Specimens that every modality has, in ascending order of their processids.

    Attributes:
        processids: (N,).
        embeddings: Modality -> (N, D).
        labels: Rank or "dna_bin" -> names (N,), None where missing.
        splits: Split of each (N,).
        dropped: Modality -> processids that the others have and it lacks; they are left out.
    """

    processids: list[str]
    embeddings: dict[str, Floats]
    labels: dict[str, list[str | None]]
    splits: list[str]
    dropped: dict[str, list[str]]


def join_by_processid(
    modalities: Mapping[str, tuple[Sequence[str], ArrayLike]], *, missing: str = "error"
) -> tuple[list[str], dict[str, Floats], dict[str, list[str]]]:
    """Modalities brought in line: row i is the same specimen in each.

    Args:
        modalities: Name -> processids (n,) and embeddings (n, D).
        missing: What becomes of a specimen that a modality lacks: "error", or "drop" it from all.

    Returns:
        Processids in ascending order (N,), name -> embeddings (N, D), and name -> processids that it lacks.

    Raises:
        ValueError: for no modality, a processid given twice, embeddings of another length, no specimen in common, and
            missing ones (named) unless they are dropped.
    """
    if missing not in ("error", "drop") or not modalities:
        raise ValueError(f"Join one modality or more, with missing='error' or 'drop'; got {missing!r}.")
    places = {}
    for name, (processids, vectors) in modalities.items():
        places[name] = {processid: row for row, processid in enumerate(processids)}
        if len(places[name]) < len(processids):
            twice = [processid for processid, times in Counter(processids).items() if times > 1]
            raise ValueError(f"The modality {name!r} holds {_some(twice)} more than once.")
        if len(np.asarray(vectors)) != len(processids):
            raise ValueError(f"{name!r} has {len(np.asarray(vectors))} embeddings for {len(processids)} processids.")
    everyone = sorted(set().union(*places.values()))
    lacking = {name: [one for one in everyone if one not in of_name] for name, of_name in places.items()}
    lacking = {name: those for name, those in lacking.items() if those}
    if lacking and missing == "error":
        raise ValueError(
            f"The modalities hold different specimens. "
            f"{'; '.join(f'{name!r} lacks {len(those)}: {_some(those)}' for name, those in lacking.items())}. Embed "
            f"them as well, or pass missing='drop' to leave them out."
        )
    gone = {one for those in lacking.values() for one in those}
    processids = [one for one in everyone if one not in gone]
    if not processids:
        raise ValueError(f"No specimen is in all of the modalities {', '.join(modalities)}.")
    taken = {
        name: np.asarray(vectors, np.float32)[[places[name][one] for one in processids]]
        for name, (_, vectors) in modalities.items()
    }
    return processids, taken, lacking


def read_specimens(
    source: str | Path,
    folders: Mapping[str, str | Path],
    *,
    splits: Sequence[str] = SPLITS,
    missing: str = "error",
) -> JoinedSpecimens:
    """Embeddings on disk, joined, with the labels of the dataset they were made of.

    A specimen whose embedding is not valid (a barcode without a whole token, a photo that is not there) is missing.
    Specimens that are embedded for no modality, such as those that `--unique-barcodes` passes over, are not.

    Args:
        source: As `load_bioscan5m` takes it.
        folders: Modality -> folder with a subfolder for each split, as `bioscan-hf embed` writes it, or the evaluation
            of CLIBD; of the latter the modality ("image", "dna" or "text") that it is named.
        splits: Those that are clustered together.
        missing: "error" or "drop", as in `join_by_processid`.

    Raises:
        FileNotFoundError: for a split that is not embedded.
        ValueError: as `join_by_processid`; for splits that different models have embedded, and specimens that are not
            in the splits of the source.
    """
    parts: dict[str, tuple[list[str], list[Floats]]] = {name: ([], []) for name in folders}
    absent: dict[str, list[str]] = {name: [] for name in folders}
    for name, folder in folders.items():
        _check_one_model(Path(folder), splits)
        for split in splits:
            processids, vectors, valid = _read_split(Path(folder) / split, name)
            parts[name][0].extend(one for one, there in zip(processids, valid, strict=True) if there)
            parts[name][1].append(vectors[valid])
            absent[name] += [one for one, there in zip(processids, valid, strict=True) if not there]
    invalid = "; ".join(f"{len(those)} of {name!r}: {_some(those)}" for name, those in absent.items() if those)
    if invalid and missing == "error":
        raise ValueError(f"Some embeddings are not valid ({invalid}). Pass missing='drop' to leave them out.")
    joined = {name: (ids, np.concatenate(vectors)) for name, (ids, vectors) in parts.items()}
    processids, embeddings, dropped = join_by_processid(joined, missing=missing)
    for name, those in absent.items():
        dropped[name] = sorted({*dropped.get(name, []), *those})
    labels, split_of = _labels(source, splits, processids)
    return JoinedSpecimens(processids, embeddings, labels, split_of, {k: v for k, v in dropped.items() if v})


def cluster_embeddings(
    source: str | Path,
    folders: Mapping[str, str | Path],
    output: str | Path,
    *,
    preset: str = "bioscan5m",
    splits: Sequence[str] = SPLITS,
    seeds: Sequence[int] | None = None,
    missing: str = "error",
    force: bool = False,
    progress: Callable[[int], object] = lambda seed: None,
    **options: Any,
) -> dict[str, Any]:
    """Clusters embeddings on disk; writes `results.json` and `clusters.parquet`, and returns the former.

    `clusters.parquet` has the columns processid, split, cluster (of the first seed), cluster_seed_S of further seeds,
    and the ranks and the BIN. In `results.json`, `metrics` holds rank -> score, the mean over the seeds, and `spread`
    the standard deviations, null for one seed. A rank without any name has null scores.

    Args:
        source: As `load_bioscan5m` takes it.
        folders: As in `read_specimens`.
        output: Folder.
        preset: One of `clustering.PRESETS`, whose options stand for those that are not given.
        seeds: One run each; that of the preset if not given.
        missing: As in `join_by_processid`.
        force: Replace results that the folder holds.
        progress: Called with each seed when its run is done.
        options: Those of `zero_shot_cluster`, see `preset_options`.

    Raises:
        FileExistsError: if the folder holds results, unless `force`.
        ValueError: as `read_specimens` and `zero_shot_cluster`, and for an unknown preset.
    """
    output = Path(output)
    files = [output / "results.json", output / "clusters.parquet"]
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise FileExistsError(f"{there[0]!r} exists. Choose another folder, or replace it with force=True (--force).")
    how = preset_options(preset, **options)
    seed = how.pop("seed")
    specimens = read_specimens(source, folders, splits=splits, missing=missing)
    runs = cluster_runs(
        specimens.embeddings,
        specimens.labels,
        seeds=(seed,) if seeds is None else tuple(seeds),
        ids=specimens.processids,
        progress=progress,
        **how,
    )
    output.mkdir(parents=True, exist_ok=True)
    files[0].unlink(missing_ok=True)  # results never stand beside the clusters of another run
    _write_clusters(files[1], specimens, runs)
    means, spread = summary(runs)["mean"], summary(runs)["std"]
    changed = {key: value for key, value in how.items() if value != PRESETS[preset].get(key)}
    return write_results(
        files[0],
        task="bioscan5m/clustering",
        protocol=preset + ("" if not changed else f", with other {', '.join(sorted(changed))}"),
        options={key: value for key, value in runs[0].options.items() if key != "seed"},
        seeds=[run.options["seed"] for run in runs],
        chosen=[run.chosen for run in runs],
        dataset=str(source),
        splits=dict(sorted(Counter(specimens.splits).items())),
        specimens=len(specimens.processids),
        dropped=specimens.dropped,
        modalities={name: x.shape[1] for name, x in specimens.embeddings.items()},
        embeddings={name: str(folder) for name, folder in folders.items()},
        encoders={name: _encoder(Path(folder) / splits[0]) for name, folder in folders.items()},
        seconds=[run.seconds for run in runs],
        libraries=runs[0].versions,
        metrics=means,
        spread=spread,
        runs=[{"metrics": run.metrics, "separation": run.separation} for run in runs],
    )


def clustered_vectors(specimens: JoinedSpecimens, results: Mapping[str, Any]) -> Floats:
    """What the clustering of `results` began from (N, D): the modalities side by side, normalised as it did."""
    return side_by_side(specimens.embeddings, results["options"]["normalization"])


def preset_options(preset: str, **options: Any) -> dict[str, Any]:
    """Arguments of `zero_shot_cluster`: those of a preset, except where others are given.

    Another reducer than the preset's begins from its own defaults. A clusterer that finds the number of clusters
    itself, and a distance threshold, take the place of the preset's number.

    Raises:
        ValueError: for an unknown preset.

    Example:
        >>> preset_options("bioscan5m", reducer="none")["reducer_options"]
        {}
    """
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}. There are {', '.join(PRESETS)}.")
    how = {**PRESETS[preset], **options}
    if how["reducer"] != PRESETS[preset]["reducer"]:  # the preset's options are those of its own reducer
        how["reducer_options"] = options.get("reducer_options", {})
    elif "reducer_options" in options:
        how["reducer_options"] = {**PRESETS[preset]["reducer_options"], **(options["reducer_options"] or {})}
    if how["clusterer"] in FREE or how.get("distance_threshold") is not None:
        how["n_clusters"] = options.get("n_clusters")
    return how


def _check_one_model(folder: Path, splits: Sequence[str]) -> None:
    """Raises ValueError if the splits were embedded by different models: their vectors are of different spaces."""
    there = [split for split in splits if (folder / split / "manifest.json").is_file()]
    found = [_encoder(folder / split) for split in there]
    # Counts of other k-mers differ in `dim` alone; it is there when all of a split is.
    if any(len({about[key] for about in found if key in about}) > 1 for key in ("model", "dim")):
        raise ValueError(
            f"Different models have embedded {' and '.join(there)} in {str(folder)!r}: their vectors cannot be "
            f"compared. Embed all splits by one model."
        )


def _read_split(folder: Path, modality: str) -> tuple[list[str], Floats, np.ndarray]:
    """Processids, embeddings, and which of them are valid."""
    if not (folder / "manifest.json").is_file():
        raise FileNotFoundError(
            f"No embeddings of {folder.name!r} in {str(folder.parent)!r}: run `bioscan-hf embed` for it first, or "
            f"name the splits that are there (--split)."
        )
    if not list(folder.glob("specimens-*.parquet")):
        found = load_embeddings(folder)
        return found.processids, found.embeddings, found.valid
    specimens = load_specimens(folder)
    if modality not in specimens.embeddings:
        raise ValueError(
            f"{str(folder)!r} holds embeddings of {', '.join(specimens.embeddings)}, and {modality!r} is asked for."
        )
    vectors = np.asarray(specimens.embeddings[modality], np.float32)
    return list(specimens.ids), vectors, np.asarray(specimens.present[modality])


def _labels(
    source: str | Path, splits: Sequence[str], processids: Sequence[str]
) -> tuple[dict[str, list[str | None]], list[str]]:
    """Rank -> names of the specimens, and the split of each."""
    data = load_bioscan5m(
        source, "dna", "+".join(splits), columns=["processid", "split", *LABEL_COLUMNS], max_nucleotides=None
    )
    table = data.with_format("arrow")[:]
    place = {processid: row for row, processid in enumerate(table["processid"].to_pylist())}
    strange = [one for one in processids if one not in place]
    if strange:
        raise ValueError(
            f"{len(strange)} specimens with embeddings are not in {' + '.join(splits)} of {str(source)!r}: "
            f"{_some(strange)}."
        )
    taken = table.take([place[one] for one in processids])
    return {rank: taken[rank].to_pylist() for rank in LABEL_COLUMNS}, taken["split"].to_pylist()


def _write_clusters(path: Path, specimens: JoinedSpecimens, runs: Sequence[Clustering]) -> None:
    further = {f"cluster_seed_{run.options['seed']}": run.clusters for run in runs[1:]}
    names = {rank: pa.array(column, pa.string()) for rank, column in specimens.labels.items()}
    columns = {"processid": specimens.processids, "split": specimens.splits, "cluster": runs[0].clusters}
    part = path.with_name(path.name + ".part")
    pq.write_table(pa.table({**columns, **further, **names}), part)
    os.replace(part, path)


def _encoder(folder: Path) -> dict[str, Any]:
    """What the manifest says about the encoder."""
    manifest = read_json(folder / "manifest.json")
    return {key: manifest[key] for key in ("model", "processor", "precision", "dim") if key in manifest}


def _some(names: Sequence[str]) -> str:
    return named_rows(list(names), None)

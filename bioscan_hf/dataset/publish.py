"""Publishing a build as a dataset repository on the Hub, from which anyone loads it by name.

Shards go first and the card last, so that a repository that is half uploaded does not load as if it were whole.
Started again after an interruption, only what the repository lacks is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from html import escape as escape_html
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile

from ..files import read_json
from ..schema import CONFIGS
from .build import LABELS_FILE, MANIFEST_FILE, PROBLEMS_FILE, Manifest
from .card import dataset_card

CARD_FILE = "README.md"

#: Shards of one commit: few enough for the Hub's time limit.
SHARDS_PER_COMMIT = 25

#: The card of a repository whose shards are on their way. Its only config has no files, so nothing can be loaded.
PENDING_CARD = """---
configs:
- config_name: upload_not_finished
  data_files: upload_not_finished/*.parquet
---
# Upload not finished

This dataset is being uploaded. It can be loaded when the dataset card stands here.
"""

#: The leading folders of an absolute path, inside a message.
FOLDERS = re.compile(r"(?<![\w.)/])(?:[A-Za-z]:[\\/]|/)(?:[^/\\\s'\"]+[/\\])+")

Operation = CommitOperationAdd | CommitOperationDelete


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> str:
    """Uploads a build to the Hub and returns the URL of the commit that completed it.

    Sent are the files of the build alone: shards, label names, manifest and list of problems, both without the
    folders of this machine, and the card with the counts of each split. Shards of an earlier build are deleted.

    Args:
        folder: What `build` wrote.
        repo_id: "user/name"; the repository is created if it does not exist.
        private: Whether a new repository can be read by its owner alone.
        revision: Branch, created if it does not exist; "main" by default.
        token: Of an account that may write there; that of the machine's login by default.
        progress: Called with what is sent next, and with how many bytes of how many are there.

    Raises:
        FileNotFoundError: if the folder holds no build.
        ValueError: if the build is not whole, or the repository holds what keeps it from loading.
    """
    folder = Path(folder)
    manifest = complete_manifest(folder)
    shards, configs = manifest["shards"], manifest["configs"]
    texts = card_and_texts(folder, manifest)
    api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    there = _files_there(api, repo_id, revision)
    _check_repository(repo_id, there, configs)

    missing = [name for name in shards if there.get(name) != shards[name]["sha256"]]
    batches = [missing[i : i + SHARDS_PER_COMMIT] for i in range(0, len(missing), SHARDS_PER_COMMIT)] or [[]]
    total = sum(shard["bytes"] for shard in shards.values())
    done = total - sum(shards[name]["bytes"] for name in missing)

    def commit(operations: Sequence[Operation], message: str) -> str:
        made = api.create_commit(repo_id, operations, commit_message=message, repo_type="dataset", revision=revision)
        return str(made.commit_url)

    if len(batches) > 1:
        waiting = {MANIFEST_FILE: json.dumps({"complete": False}), CARD_FILE: PENDING_CARD}
        commit([_add(name, text) for name, text in waiting.items()], "Begin the upload of a build")
    for number, batch in enumerate(batches[:-1], start=1):
        progress(batch[0], done, total)
        commit([_add_shard(folder, name, shards[name]) for name in batch], f"Shards, part {number} of {len(batches)}")
        done += sum(shards[name]["bytes"] for name in batch)
    progress(batches[-1][0] if batches[-1] else CARD_FILE, done, total)
    last: list[Operation] = [_add_shard(folder, name, shards[name]) for name in batches[-1]]
    last += [_add(name, text) for name, text in texts.items()]
    last += [CommitOperationDelete(name) for name in there if _is_stale(name, configs, {*shards, *texts})]
    url = commit(last, f"Publish {', '.join(configs)}")
    progress(CARD_FILE, total, total)
    return url


def complete_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a build of which every file is there.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the build is not complete, its manifest lacks a field or holds it in another type, or a file of
            it is missing or of another size.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no build (no {MANIFEST_FILE}): run `bioscan-hf build` first.")
    manifest = read_json(path, {"complete": bool, "configs": list, "shards": dict, "source": dict})
    if not manifest["complete"]:
        raise ValueError(f"The build in {str(folder)!r} is not complete: run `bioscan-hf build` again to go on.")
    sizes = {name: shard["bytes"] for name, shard in manifest["shards"].items()}
    for name, size in {**sizes, LABELS_FILE: None}.items():
        file = folder / name
        if not file.is_file() or size not in (None, file.stat().st_size):
            what = f"has {file.stat().st_size} bytes instead of {size}" if file.is_file() else "is missing"
            raise ValueError(f"{name} of the build {what}: run `bioscan-hf build` again, which writes it anew.")
    return manifest


def split_counts(folder: str | Path) -> list[dict[str, Any]]:
    """For each split of a build, and for "total", its samples, distinct barcodes and distinct species.

    N at either end of a barcode does not count, and a missing barcode is none. Barcodes are compared by 64-bit hashes
    (8 bytes each in memory), of which two among 2.5 million coincide with a probability below 2e-7.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).glob("dna/*.parquet")):
        files.setdefault(path.name.split("-")[0], []).append(path)
    names = json.loads((Path(folder) / MANIFEST_FILE).read_text(encoding="utf-8"))["shards"]
    order = dict.fromkeys(Path(name).name.split("-")[0] for name in names if name.startswith("dna/"))
    rows: list[dict[str, Any]] = []
    all_barcodes, all_species = np.empty(0, np.uint64), set[str]()
    for split in order:
        samples, parts, species = 0, [np.empty(0, np.uint64)], set[str]()
        for path in files[split]:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(50_000, columns=["dna_barcode", "species"]):
                    samples += len(batch)
                    parts.append(_barcode_hashes(batch["dna_barcode"]))
                    species.update(batch["species"].unique().drop_null().to_pylist())
        barcodes = np.unique(np.concatenate(parts))
        rows.append({"split": split, "samples": samples, "barcodes": len(barcodes), "species": len(species)})
        all_barcodes, all_species = np.union1d(all_barcodes, barcodes), all_species | species
    total = {"split": "total", "samples": sum(row["samples"] for row in rows)}
    return [*rows, {**total, "barcodes": len(all_barcodes), "species": len(all_species)}]


def _barcode_hashes(barcodes: pa.Array) -> np.ndarray:
    """Hashes (m,) uint64, ascending, of the distinct barcodes of a column."""
    distinct = pc.utf8_trim(barcodes, "N").unique().drop_null().to_pylist()
    joined = b"".join(blake2b(barcode.encode(), digest_size=8).digest() for barcode in distinct if barcode)
    return np.unique(np.frombuffer(joined, np.uint64))


def card_and_texts(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Name -> content of the files that are published beside the shards; the card is the last."""
    state = Manifest(folder / MANIFEST_FILE, {}, manifest["shards"])
    counts = split_counts(folder)
    texts = {
        LABELS_FILE: (folder / LABELS_FILE).read_text(encoding="utf-8"),
        MANIFEST_FILE: json.dumps(_without_folders(dict(manifest)), indent=2, ensure_ascii=False) + "\n",
    }
    if (folder / PROBLEMS_FILE).is_file():
        texts[PROBLEMS_FILE] = _without_folders((folder / PROBLEMS_FILE).read_text(encoding="utf-8"))
    texts[CARD_FILE] = dataset_card(
        manifest["source"]["name"],
        manifest["configs"],
        {row["split"]: row["samples"] for row in counts[:-1]},
        {config: state.fingerprint(config) for config in manifest["configs"]},
        counts,
    )
    return texts


def _without_folders(value: Any) -> Any:
    """The same with absolute paths cut to their last part, in every string."""
    if isinstance(value, dict):
        return {name: _without_folders(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value


def _files_there(api: HfApi, repo_id: str, revision: str | None) -> dict[str, str | None]:
    """Path -> sha256 of every file of a repository; None for a small file that Git itself holds."""
    entries = api.list_repo_tree(repo_id, recursive=True, repo_type="dataset", revision=revision)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return {file.path: None if file.lfs is None else file.lfs.sha256 for file in files}


def _check_repository(repo_id: str, there: Mapping[str, str | None], configs: Sequence[str]) -> None:
    script = f"{repo_id.split('/')[-1]}.py"
    if script in there:
        raise ValueError(
            f"{repo_id} holds {script}, which `load_dataset` takes for a loading script: it fails, or gives old rows "
            f"of its cache. Delete that file from the repository, then publish again."
        )
    held = {path.split("/")[0] for path in there if path.endswith(".parquet")} & set(CONFIGS)
    if lost := [config for config in CONFIGS if config in held - set(configs)]:
        raise ValueError(
            f"{repo_id} holds the config {lost[0]!r}, which this build ({', '.join(configs)}) lacks, and the new card "
            f"would hide it. Build it as well, delete its folder there, or publish to another repository or revision."
        )


def _is_stale(path: str, configs: Sequence[str], new: set[str]) -> bool:
    """Whether a file of the repository is of an earlier build: its shards would be read beside the new ones."""
    shard = path.endswith(".parquet") and path.split("/")[0] in configs
    return (shard or path == PROBLEMS_FILE) and path not in new


def _add(name: str, text: str) -> CommitOperationAdd:
    return CommitOperationAdd(name, text.encode())


def _add_shard(folder: Path, name: str, entry: Mapping[str, Any]) -> CommitOperationAdd:
    operation = CommitOperationAdd(name, folder / name)
    if operation.upload_info.sha256.hex() != entry["sha256"]:
        raise ValueError(
            f"{name} is not as it was built (its sha256 differs from the manifest's). Delete it and run "
            f"`bioscan-hf build` again, which writes it anew."
        )
    return operation


def push_metric(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Uploads a folder of metrics/ to a Space of the Hub, from which `evaluate.load(repo_id)` takes it; its commit.

    `evaluate.load` looks for the name of the repository, so the script goes up under that name. The Space shows the
    card.

    Raises:
        FileNotFoundError: if the folder has no script of its own name.
    """
    folder = Path(folder)
    script = folder / f"{folder.name}.py"
    if not script.is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no {script.name}: it is no folder of a metric.")
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, repo_type="space", space_sdk="static", private=private, exist_ok=True).repo_id
    card = (folder / CARD_FILE).read_text(encoding="utf-8").replace("PATH_OR_HUB_ID", repo)
    text = escape_html(card.split("---\n", 2)[2])
    page = (
        f"<!doctype html><meta charset=utf-8><title>{folder.name}</title><pre style=white-space:pre-wrap>{text}</pre>"
    )
    texts = {
        f"{repo.split('/')[-1]}.py": script.read_text(encoding="utf-8"),
        "requirements.txt": (folder / "requirements.txt").read_text(encoding="utf-8"),
        "index.html": page + "\n",
        CARD_FILE: card,
    }
    operations = [_add(name, text) for name, text in texts.items()]
    message = f"Publish the metric {folder.name}"
    return str(api.create_commit(repo, operations, commit_message=message, repo_type="space").oid)

"""`publish`: uploads a build to the Hub, from where it loads by name.

Shards are uploaded first and the card last, so an incomplete upload cannot be loaded. After an interruption, only the
missing shards are uploaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile

from ..partition.counts import count_splits
from ..progress import Progress, silent
from ..provenance import without_folders
from ..schema import CONFIGS
from .card import CARD_FILE, dataset_card, merged, pending, read_card
from .hub_errors import explained
from .manifest import LABELS_FILE, MANIFEST_FILE, fingerprint, read_manifest
from .problems import PROBLEMS_FILE

#: Shards of one commit. The Hub limits the time of a commit.
SHARDS_PER_COMMIT = 25

Operation = CommitOperationAdd | CommitOperationDelete


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    force: bool = False,
    token: str | None = None,
    progress: Progress = silent,
) -> str:
    """Uploads a build to the Hub; returns the URL of the last commit.

    Only files of the build are uploaded: shards, label names, manifest, list of problems, and the card. Folders of
    this machine are cut from the manifest and the list. Shards of an earlier build are deleted. Of the card, only the
    table of splits and the configs are generated; what was edited in it, in the folder or on the Hub, is kept.

    Args:
        folder: Folder that `build` wrote.
        repo_id: "user/name"; the repository is created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch, created if it does not exist; "main" by default.
        license: Id of the licence of these data on the Hub, such as "cc0-1.0". By default that of the card, which is
            "cc-by-3.0" for BIOSCAN-5M and "other" for other data.
        force: Publish the card of the folder even if it was edited on the Hub as well.
        token: Token of an account that may write there; by default that of `hf auth login`.
        progress: Called with "upload", the bytes that are there, and all bytes.

    Raises:
        ConnectionError: if the Hub cannot be reached.
        FileNotFoundError: if the folder does not hold a build.
        PermissionError: if the token is missing, wrong, or has no right to write there.
        ValueError: if the build is not complete, the card was edited here and on the Hub, or files in the repository
            would prevent loading.
    """
    folder = Path(folder)
    manifest = complete_manifest(folder)
    api = HfApi(token=token)
    with explained(repo_id, token, revision=revision):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
        there = _files_there(api, repo_id, revision)
        _check_repository(repo_id, there, manifest["configs"])
        texts, card = _texts(folder, manifest), None
        if CARD_FILE in there:
            card = read_card(api.hf_hub_download(repo_id, CARD_FILE, repo_type="dataset", revision=revision))
        mine = read_card(folder / CARD_FILE)
        texts[CARD_FILE] = merged(mine, card, texts[CARD_FILE], force=force, license=license)
        return _upload(api, repo_id, revision, folder, manifest["shards"], texts, there, progress)


def _upload(
    api: HfApi,
    repo_id: str,
    revision: str | None,
    folder: Path,
    shards: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, str],
    there: Mapping[str, str | None],
    progress: Progress,
) -> str:
    """Commits the missing shards, then the texts; returns the URL of the last commit."""
    missing = [name for name in shards if there.get(name) != shards[name]["sha256"]]
    batches = [missing[i : i + SHARDS_PER_COMMIT] for i in range(0, len(missing), SHARDS_PER_COMMIT)] or [[]]
    total = sum(shard["bytes"] for shard in shards.values())
    done = total - sum(shards[name]["bytes"] for name in missing)

    def commit(operations: Sequence[Operation], message: str) -> str:
        made = api.create_commit(repo_id, operations, commit_message=message, repo_type="dataset", revision=revision)
        return str(made.commit_url)

    if len(batches) > 1:
        waiting = {MANIFEST_FILE: json.dumps({"complete": False}), CARD_FILE: pending(texts[CARD_FILE])}
        commit([_add(name, text) for name, text in waiting.items()], "Begin the upload of a build")
    for number, batch in enumerate(batches[:-1], start=1):
        progress("upload", done, total)
        commit([_add_shard(folder, name, shards[name]) for name in batch], f"Shards, part {number} of {len(batches)}")
        done += sum(shards[name]["bytes"] for name in batch)
    progress("upload", done, total)
    configs = list(dict.fromkeys(name.split("/")[0] for name in shards))
    last: list[Operation] = [_add_shard(folder, name, shards[name]) for name in batches[-1]]
    last += [_add(name, text) for name, text in texts.items()]
    last += [CommitOperationDelete(name) for name in there if _is_stale(name, configs, {*shards, *texts})]
    url = commit(last, f"Publish {', '.join(configs)}")
    progress("upload", total, total)
    return url


def complete_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete build.

    Raises:
        FileNotFoundError: if there is no manifest.
        ValueError: if the build is not complete, the manifest is damaged, or a file is missing or of another size.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no build (no {MANIFEST_FILE}): run `bioscan-hf build` first.")
    manifest = read_manifest(path, {"configs": list, "shards": dict, "source": dict})
    if not manifest["complete"]:
        raise ValueError(f"The build in {str(folder)!r} is not complete: run `bioscan-hf build` again to go on.")
    sizes = {name: shard["bytes"] for name, shard in manifest["shards"].items()}
    for name, size in {**sizes, LABELS_FILE: None}.items():
        file = folder / name
        if not file.is_file() or size not in (None, file.stat().st_size):
            what = f"has {file.stat().st_size} bytes instead of {size}" if file.is_file() else "is missing"
            raise ValueError(f"{name} of the build {what}: run `bioscan-hf build` again, which rewrites it.")
    return manifest


def build_card(folder: str | Path) -> str:
    """README.md of a complete build; errors as of `complete_manifest`."""
    return _texts(Path(folder), complete_manifest(Path(folder)))[CARD_FILE]


def split_counts(folder: str | Path) -> list[dict[str, Any]]:
    """Samples, distinct barcodes and distinct species per split of a build, and in total."""

    def blocks() -> Iterator[pa.RecordBatch]:
        for path in sorted(Path(folder).glob("dna/*.parquet")):
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(50_000, columns=["split", "dna_barcode", "species"])

    return count_splits(blocks())


def _texts(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Name -> content of the text files to publish; the card is the last."""
    counts = split_counts(folder)
    texts = {
        LABELS_FILE: (folder / LABELS_FILE).read_text(encoding="utf-8"),
        MANIFEST_FILE: json.dumps(without_folders(dict(manifest)), indent=2, ensure_ascii=False) + "\n",
    }
    if (folder / PROBLEMS_FILE).is_file():
        texts[PROBLEMS_FILE] = without_folders((folder / PROBLEMS_FILE).read_text(encoding="utf-8"))
    texts[CARD_FILE] = dataset_card(
        manifest["source"]["name"],
        manifest["configs"],
        {row["split"]: row["samples"] for row in counts[:-1]},
        {config: fingerprint(manifest["shards"], config) for config in manifest["configs"]},
        counts,
    )
    return texts


def _files_there(api: HfApi, repo_id: str, revision: str | None) -> dict[str, str | None]:
    """Path -> sha256 of every file of a repository; None for a small file that is stored in Git."""
    entries = api.list_repo_tree(repo_id, recursive=True, repo_type="dataset", revision=revision)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return {file.path: None if file.lfs is None else file.lfs.sha256 for file in files}


def _check_repository(repo_id: str, there: Mapping[str, str | None], configs: Sequence[str]) -> None:
    script = f"{repo_id.split('/')[-1]}.py"
    if script in there:
        raise ValueError(
            f"{repo_id} holds {script}, which `load_dataset` takes for a loading script: loading would fail, or "
            f"return old rows from the cache. Delete that file from the repository, then publish again."
        )
    held = {path.split("/")[0] for path in there if path.endswith(".parquet")} & set(CONFIGS)
    if lost := [config for config in CONFIGS if config in held - set(configs)]:
        raise ValueError(
            f"{repo_id} holds the config {lost[0]!r}, which is not in this build ({', '.join(configs)}); the new card "
            f"would hide it. Build it as well, delete its folder there, or publish to another repository or revision."
        )


def _is_stale(path: str, configs: Sequence[str], new: set[str]) -> bool:
    """Whether a file of the repository is from an earlier build and must be deleted."""
    shard = path.endswith(".parquet") and path.split("/")[0] in configs
    return (shard or path == PROBLEMS_FILE) and path not in new


def _add(name: str, text: str) -> CommitOperationAdd:
    return CommitOperationAdd(name, text.encode())


def _add_shard(folder: Path, name: str, entry: Mapping[str, Any]) -> CommitOperationAdd:
    operation = CommitOperationAdd(name, folder / name)
    if operation.upload_info.sha256.hex() != entry["sha256"]:
        raise ValueError(
            f"{name} has changed since it was built (its sha256 differs from the manifest's). Delete it and run "
            f"`bioscan-hf build` again, which rewrites it."
        )
    return operation

"""Libraries of references on the Hub: pushed with a card, found by their id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    DatasetCardData,
    HfApi,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from ..cards import escape, size_category, table
from ..dataset.hub_errors import explained
from ..files import is_hub_id, read_json
from ..provenance import without_folders
from ..schema import RANKS
from .stored import AUDIT, CONFIG, FACTS, TABLE, is_library

CARD = "README.md"

#: Files of an earlier library in a repository, which a new one replaces.
REPLACED = ("*.safetensors", "*.parquet", "region/*", CONFIG, AUDIT)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    license: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Uploads the folder of a library and a card to a dataset repository in one commit; returns its URL.

    Arguments as of `ReferenceLibrary.push_to_hub`.

    Raises:
        FileNotFoundError: if the folder is not a library.
        ConnectionError, PermissionError: if the Hub cannot be reached, or refuses.
    """
    folder = Path(folder)
    if not is_library(folder):
        raise FileNotFoundError(f"{str(folder)!r} is not a library of references: it has no {FACTS}.")
    facts = without_folders(read_json(folder / FACTS))
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(fnmatch(path.relative_to(folder).as_posix(), one) for one in REPLACED)
    }
    audited = AUDIT in files
    files[CARD] = library_card(repo_id, pq.read_table(folder / TABLE), facts, license, audited=audited).encode()
    files[FACTS] = (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()
    api = HfApi(token=token)
    with explained(repo_id, token, revision=revision):
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
        there = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
        old = [path for path in there if FACTS in there and any(fnmatch(path, one) for one in REPLACED)]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(path, content) for path, content in files.items()),
            *(CommitOperationDelete(path) for path in old if path not in files),
        ]
        message = "Library of references"
        made = api.create_commit(repo_id, operations, commit_message=message, repo_type="dataset", revision=revision)
    return str(made.commit_url)


def fetch(repo_id: str, *, revision: str | None = None, token: Any = None, cache_dir: Any = None) -> Path:
    """The folder of a library of the Hub in the cache.

    Raises:
        ConnectionError, PermissionError, FileNotFoundError: as `dataset.hub_errors.explained`.
    """
    how: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    with explained(repo_id, token, revision=revision):
        return Path(snapshot_download(repo_id, repo_type="dataset", **how))


def is_on_hub(name: str) -> bool:
    """Whether a name is the id of a library on the Hub. False for what the Hub does not have.

    Raises:
        ConnectionError, PermissionError: as `dataset.hub_errors.explained`.
    """
    if not is_hub_id(name):
        return False
    with explained(name):
        try:
            hf_hub_download(name, FACTS, repo_type="dataset")
        except (EntryNotFoundError, RepositoryNotFoundError):
            return False
    return True


def library_card(
    repo_id: str, records: pa.Table, facts: Mapping[str, Any], license: str, *, audited: bool = False
) -> str:
    """README.md of a library.

    Args:
        records: Its `references.parquet`.
        facts: Content of its `library.json`.
        license: Id of the licence on the Hub, such as "cc-by-4.0".
        audited: Whether `AUDIT` is beside the card.
    """
    number = pc.sum(records["records"]).as_py()
    taxa = {rank: len(pc.unique(records[rank].drop_null())) for rank in RANKS}
    photos = facts.get("kind") == "embeddings"
    asked = (facts["calibration"] or {}).get("asked")
    trust = "Not calibrated, because too few references have a name: names have no confidence."
    if asked:
        trust = "Learned from references that were named by the others, with or without their taxa:\n\n"
        trust += table(("the others have", "references"), list(asked.items()))
    data = DatasetCardData(
        license=license,
        pretty_name=repo_id,
        tags=["biology", "biodiversity", "dna-barcode", "bioscan_hf", "reference-library"],
        size_categories=[size_category(number)],
        configs=[{"config_name": "default", "data_files": TABLE}],
    )
    model = facts.get("model") if photos or "encoder" in facts else None
    card = DatasetCard.from_template(
        data,
        template_str=resources.files("bioscan_hf.model_cards").joinpath("library.md").read_text(encoding="utf-8"),
        repo=repo_id,
        records=f"{number:,}",
        what="photos" if photos else "sequences",
        source="photos" if photos else "reads.fasta",
        option=" --model MODEL" if model else "",
        argument=', model="MODEL"' if model else "",
        model=escape(model) if model else "",
        taxa=table(("rank", "taxa"), [(rank, count) for rank, count in taxa.items() if count]),
        formats=", ".join(f"{escape(name)} ({count})" for name, count in facts.get("formats", {}).items()),
        notes="\n".join(f"- {escape(note)}" for note in facts.get("notes", ())),
        trust=trust,
        audit=AUDIT if audited else "",
    )
    return f"{str(card).rstrip()}\n"

"""Downloads the published files of BIOSCAN-5M, from the Hub or from any web server that has them.

A download goes to NAME.part, continues there after a cut or a kill, and becomes NAME only when its size and checksum
are those published. Both sources are read by the one HTTP client here, since `hf_hub_download` of huggingface_hub 2.4
begins a file again after a kill. From the Hub's own client come a file's address, commit, size and sha256.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from ..files import write_json
from .catalogue import (
    CHECKED_FILE,
    HUB_REPO,
    REVISION,
    Checksum,
    FileState,
    Progress,
    PublishedFile,
    choose,
    file_state,
    how_large,
    needs,
    part_of,
    read_checked,
    size_of,
    unpacked_state,
    with_hub_checksum,
)

#: Seconds without a byte after which a connection counts as cut.
TIMEOUT = 60.0
#: Longest pause before another attempt, in seconds.
LONGEST_PAUSE = 120.0
BLOCK = 2**18
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(OSError):
    """A download that could not be completed; `states` tells what became of every file, if it came that far."""

    def __init__(self, message: str, states: list[FileState] | None = None):
        super().__init__(message)
        self.states = states or []


@dataclass
class Transfer:
    """A file on its way: from where, how often to try again, and how many bytes have come."""

    file: PublishedFile
    url: str
    part: Path
    #: The address names one version for ever, so nobody need ask whether the file has changed.
    immutable: bool
    retries: int
    pause: float
    progress: Progress | None
    fetched: int = 0


def download(
    root: str | Path,
    config: str = "dna",
    split: str = "all",
    *,
    source: str = "hub",
    revision: str = REVISION,
    boxes: bool = False,
    retries: int = 5,
    pause: float = 1.0,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[FileState]:
    """Brings into `root` what `config` and `split` need and is not yet there; what is right is not asked for again.

    A file there that is not as published is named, put aside as NAME.damaged and downloaded. A download that does not
    have the published checksum is named and deleted; another call begins it anew. A trouble with one file does not
    keep the others from coming.

    Args:
        source: "hub", or the http(s) address of a folder that holds the files. A server is asked (HEAD) in which
            variant it has the photos: the Hub's one _pretrain.zip is in two parts elsewhere.
        revision: Branch, tag or commit of the Hub's repository. At another than the published one, the Hub's own
            checksums are the ones that count.
        retries: Further attempts after one that brought not a byte, before a file is given up.
        pause: Seconds before another attempt; doubled for each further one, up to two minutes.
        say: Called with one line for each file that is put aside or downloaded, and on what cannot serve.

    Returns:
        State of every file needed; all usable.

    Raises:
        DownloadError: a file could not be had, naming each with the reason; or there is no room on the disk.
        RuntimeError: if another download into `root` is running.
    """
    root, base = Path(root), _base(source)
    wanted_needs = needs(config, split, boxes=boxes)
    root.mkdir(parents=True, exist_ok=True)
    states: dict[str, FileState] = {}
    todo: list[Transfer] = []
    with _alone(root):
        for need in wanted_needs:
            unpacked, note = unpacked_state(root, config, need, progress)
            if note:
                say(note)
            if unpacked is not None:
                states[unpacked.name] = unpacked
                continue
            for file in choose(need, root, lambda file: base is None or _offers(f"{base}/{quote(file.name)}")):
                if file.name in states:
                    continue
                try:
                    states[file.name], where = _look(root, file, base, revision, progress)
                except DownloadError as error:
                    states[file.name], where = replace(file_state(root, file, progress), detail=str(error)), None
                if where is not None:
                    url, file = where
                    part = part_of(root / file.name)
                    todo.append(Transfer(file, url, part, base is None, retries, pause, progress))
        _check_room(root, todo)
        for transfer in todo:
            name = transfer.file.name
            if states[name].state == "damaged":
                os.replace(root / name, root / f"{name}.damaged")
                say(f"{name} is damaged: {states[name].detail}. Put aside as {name}.damaged; downloading it again.")
            states[name] = _get(root, transfer)
            say(str(states[name]))
    failed = [state for state in states.values() if not state.usable]
    if failed:
        lines = "".join(f"\n  {state}" for state in failed)
        again = "What is right stays; the same command continues with the rest."
        raise DownloadError(f"{len(failed)} of {len(states)} files are not there:{lines}\n{again}", [*states.values()])
    return list(states.values())


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keeps a second download from writing to the same .part files; a killed one leaves no lock."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(root / ".bioscan_hf_download.lock", timeout=0):
            yield
    except Timeout:
        raise RuntimeError(f"Another download into {str(root)!r} is running: wait for it, or end it.") from None


# ---- where a file is -----------------------------------------------------------------------------------------------


def _base(source: str) -> str | None:
    """The URL base without its last slash; None for the Hub."""
    if source == "hub":
        return None
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(
            f"Unknown source {source!r}: give 'hub', or the http(s) address of the folder that holds the files, such "
            f"as https://zenodo.org/records/11973457/files."
        )
    return source.rstrip("/")


def _offers(url: str) -> bool:
    """False if the server says that it has no such file; any other trouble is told by the download itself."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=TIMEOUT):
            return True
    except HTTPError as error:
        return error.code not in (404, 410)
    except OSError:
        return True


def _look(
    root: Path, file: PublishedFile, base: str | None, revision: str, progress: Progress | None
) -> tuple[FileState, tuple[str, PublishedFile] | None]:
    """State of a file, and (unless it is as it should be) where to get it, with all that is known of it."""
    pinned = base is not None or revision == REVISION
    file = with_hub_checksum(root, file) if pinned else replace(file, checksums=(), about="size not known")
    state = file_state(root, file, progress)
    if pinned and (state.state == "right" or (state.usable and base is not None)):
        return state, None
    if base is not None:
        return state, (f"{base}/{quote(file.name)}", file)
    if "hub" not in file.hosts:
        todo = f"the Hub has no such file: put it into {root} by hand, or give a server that has it as source"
        return state if state.usable else replace(state, detail=f"{state.detail}; {todo}"), None
    url, file = _ask_hub(root, file, revision)
    state = file_state(root, file, progress)
    return state, None if state.usable else (url, file)


def _ask_hub(root: Path, file: PublishedFile, revision: str) -> tuple[str, PublishedFile]:
    """Address of a file at the commit that `revision` names, and the file with the Hub's size and sha256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HTTPError as HubError

    def address(revision: str) -> str:
        return hf_hub_url(HUB_REPO, file.name, repo_type="dataset", revision=revision)

    try:
        found = get_hf_file_metadata(address(revision), timeout=TIMEOUT, retry_on_errors=True)
    except (HubError, OSError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(f"{address(revision)}: {what}") from error
    sha256 = found.etag if found.etag and re.fullmatch("[0-9a-f]{64}", found.etag) else None
    checksum = Checksum(found.size, "sha256" if sha256 else None, sha256)
    if revision == REVISION:
        checked = read_checked(root)
        checked["hub"][file.name] = dict(zip(("size", "algorithm", "digest"), astuple(checksum), strict=True))
        write_json(root / CHECKED_FILE, checked)
    known = [c for c in file.checksums if c != checksum]
    return address(found.commit_hash or revision), replace(file, checksums=(*known, checksum))


def _check_room(root: Path, todo: list[Transfer]) -> None:
    """Raises DownloadError if the disk has less room than the files, as far as their sizes are known, still need."""
    need = 0
    for transfer in todo:
        size = max((checksum.size or 0 for checksum in transfer.file.checksums), default=0)
        need += max(0, size - size_of(transfer.part))
    _check_free(root, need, ", ".join(transfer.file.name for transfer in todo))


def _check_free(root: Path, need: int, what: str) -> None:
    free = shutil.disk_usage(root).free
    if need > free:
        raise DownloadError(
            f"No room in {str(root)!r}: {need:,} bytes are still to come ({what}), {free:,} are free. Free some, or "
            f"ask for less by config and split."
        )


# ---- one file ------------------------------------------------------------------------------------------------------


def _get(root: Path, transfer: Transfer) -> FileState:
    """Downloads a file, checks it and puts it under its name; says what became of it."""
    file, part = transfer.file, transfer.part
    try:
        _fetch(transfer)
    except DownloadError as error:
        return replace(file_state(root, file), detail=str(error), fetched=transfer.fetched)
    state = file_state(root, file, transfer.progress, part=True)
    if state.usable:
        os.replace(part, root / file.name)
    else:
        part.unlink()
        state = replace(state, detail=f"{transfer.url} sent a wrong file, deleted: {state.detail}")
    _note(part).unlink()
    return replace(state, fetched=transfer.fetched)


def _fetch(transfer: Transfer) -> None:
    """Brings what is missing in the .part, with pauses and further attempts.

    Raises:
        DownloadError: a trouble that another attempt does not heal, or one attempt too many without a new byte.
    """
    most, failures = size_of(transfer.part), 0
    while True:
        after = 0.0
        try:
            trouble = _continue(transfer)
            if not trouble:
                return
        except HTTPError as error:
            if error.code not in TRANSIENT:
                raise DownloadError(f"{transfer.url} answers {error.code} {error.reason}") from error
            told = error.headers.get("Retry-After", "")
            trouble, after = f"it answers {error.code} {error.reason}", float(told) if told.isdecimal() else 0.0
        except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
            trouble = f"{type(error).__name__}: {error}"
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise DownloadError("the disk is full: free some room, and the same command continues") from error
        size = size_of(transfer.part)
        # No progress is also a server that sends from the start each time and is cut at the same place.
        failures, most = (0, size) if size > most else (failures + 1, most)
        if failures > transfer.retries:
            raise DownloadError(f"{transfer.url}: {trouble}; given up after {failures} attempts that brought nothing")
        time.sleep(min(LONGEST_PAUSE, max(after, transfer.pause * 2 ** max(0, failures - 1))))


def _note(part: Path) -> Path:
    """Where is written from which address, and of which version of the file, the bytes in `part` are."""
    return part.with_name(part.name + ".json")


def _continue(transfer: Transfer) -> str:
    """One request for what is missing in the .part; returns "" when all is there, else what went wrong."""
    file, part, url = transfer.file, transfer.part, transfer.url
    expected = [list(astuple(checksum)) for checksum in file.checksums if checksum.digest]
    note = json.loads(_note(part).read_text(encoding="utf-8")) if _note(part).is_file() else {}
    validator = note.get("validator") if note.get("url") == url else None
    # Bytes of one version only: told by the server's validator, or by the checksum that the whole must have.
    same = validator is not None or (bool(expected) and note.get("expected") == expected)
    offset = size_of(part) if same else 0
    if offset and any(offset == checksum.size for checksum in file.checksums):
        return ""
    headers = {"Accept-Encoding": "identity", "User-Agent": "bioscan-hf"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    if offset and validator is not None:
        headers["If-Range"] = validator
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not offset:
            raise
        if error.headers.get("Content-Range") == f"bytes */{offset}":
            return ""
        part.unlink()
        return f"the server has no bytes after {offset:,}: another version of the file"
    with response:
        start, total = _extent(response)
        if start != offset and start:
            raise DownloadError(f"{url} sends the bytes from {start:,} instead of {offset:,}")
        sizes = {checksum.size for checksum in file.checksums} - {None}
        if total is not None and sizes and total not in sizes:
            raise DownloadError(f"{url} has {total:,} bytes, published are {how_large(file)}: another version?")
        found = _validator(response)
        if start and validator is not None and found not in (None, validator):
            part.unlink()
            return "the file has changed on the server"
        if not start:
            part.unlink(missing_ok=True)  # before the note: old bytes must never stand beside a new validator
            about = {"url": url, "validator": None if transfer.immutable else found, "expected": expected}
            write_json(_note(part), about)
        _check_free(part.parent, (total or 0) - start, file.name)
        done = _receive(response, transfer, start, total)
    return "" if total in (None, done) else f"the connection was cut after {done:,} of {total:,} bytes"


def _receive(response: Any, transfer: Transfer, start: int, total: int | None) -> int:
    """Appends what a response sends to the .part; returns the bytes that are there now."""
    done = start
    with open(transfer.part, "ab") as output:
        while block := response.read(BLOCK):
            output.write(block)
            done += len(block)
            transfer.fetched += len(block)
            if transfer.progress:
                transfer.progress(f"downloading {transfer.file.name}", done, total)
    return done


def _validator(response: Any) -> str | None:
    """What tells versions of the file apart, to the byte: a strong ETag, or the time of change."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _extent(response: Any) -> tuple[int, int | None]:
    """First byte that a response sends, and the bytes of the whole file (None if the server does not say)."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            raise DownloadError(f"{response.url} answers a range without saying which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, None if length is None else int(length)

"""Downloads the published files of BIOSCAN-5M and Canadian Invertebrates from the Hub or a web server.

A download grows in NAME.part, continues there after an interruption, and is renamed to NAME when size and checksum are
those published. One HTTP client reads both sources, because `hf_hub_download` (huggingface_hub 2.4) restarts a file
after a kill. The Hub client is used for a file's address, commit, size and sha256.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request

from ..files import locked, read_json, write_json
from ..progress import Progress, silent
from .catalogue import Checksum, PublishedFile, needs
from .local_files import Checked, FileState, choose, file_state, part_of, size_of, unpacked_state
from .network import TIMEOUT, TRANSIENT, DownloadError, NetworkFault, Patience, network_fault, open_url, patiently

BLOCK = 2**18


@dataclass
class Transfer:
    """A file to download, and the bytes fetched so far."""

    file: PublishedFile
    url: str
    part: Path
    immutable: bool  # whether the address always names the same version of the file
    patience: Patience
    progress: Progress
    fetched: int = 0


def download(
    root: str | Path,
    config: str = "dna",
    split: str = "all",
    *,
    source: str = "hub",
    revision: str | None = None,
    boxes: bool = False,
    dataset: str = "bioscan-5m",
    reread: bool = False,
    retries: int = 5,
    pause: float = 1.0,
    progress: Progress = silent,
    say: Callable[[str], object] = lambda line: None,
) -> list[FileState]:
    """Downloads the files that `config` and `split` need into `root`. Correct files are not requested again.

    A file that differs from the published one is renamed to NAME.damaged and downloaded again. A download with a wrong
    checksum is reported and deleted. A failure of one file does not stop the others.

    Args:
        source: "hub", or the http(s) address of a folder with the files. A server is asked (HEAD) which variant of the
            photos it has: the single _pretrain.zip of the Hub is in two parts elsewhere.
        revision: Branch, tag or commit of the Hub repository; None is the published one. At others, the checksums
            reported by the Hub count.
        dataset: "bioscan-5m" or "canadian-invertebrates", which is one table of all splits.
        reread: Computes the digests of the files in `root` again, also where they seem unchanged.
        retries: Consecutive attempts without progress before giving up on a file, beyond the first.
        pause: Seconds before the next attempt; doubled each time, up to two minutes.
        progress: Called with ("downloading NAME" or "checking NAME", bytes, bytes in total or None).
        say: Called with one line per file that is renamed or downloaded, and on unpacked data that are not used.

    Returns:
        State of every file needed; all are usable.

    Raises:
        DownloadError: if a file could not be downloaded, naming each with the reason; or the disk is too full.
        RuntimeError: if another download into `root` is running.
    """
    root, base = Path(root), _base(source)
    wanted = needs(config, split, boxes=boxes, dataset=dataset)
    states: dict[str, FileState] = {}
    todo: list[Transfer] = []
    patience = Patience(retries, pause)
    with locked(root, "download", name=".bioscan_hf_download.lock"):
        checked = Checked(root, keep=True, reread=reread)
        for need in wanted:
            unpacked, note = unpacked_state(checked, config, need, progress)
            if note:
                say(note)
            if unpacked is not None:
                states[unpacked.name] = unpacked
                continue
            for file in choose(
                need, root, lambda file: base is None or _offers(f"{base}/{quote(file.name)}", patience)
            ):
                if file.name in states:
                    continue
                try:
                    states[file.name], where = _locate(checked, file, base, revision, patience, progress)
                except OSError as error:
                    states[file.name], where = _failed(root, file, error), None
                if where is not None:
                    url, file = where
                    todo.append(Transfer(file, url, part_of(root / file.name), base is None, patience, progress))
        _check_space(root, todo)
        for transfer in todo:
            name = transfer.file.name
            try:
                if states[name].state == "damaged":
                    os.replace(root / name, root / f"{name}.damaged")
                    say(f"{name} is damaged: {states[name].detail}. Renamed to {name}.damaged; downloading it again.")
                states[name] = _get(checked, transfer)
            except OSError as error:
                states[name] = replace(_failed(root, transfer.file, error), fetched=transfer.fetched)
            say(str(states[name]))
    failed = [state for state in states.values() if not state.usable]
    if failed:
        lines = "".join(f"\n  {state}" for state in failed)
        again = "Correct files are kept; the same command continues with the rest."
        raise DownloadError(f"{len(failed)} of {len(states)} files are missing:{lines}\n{again}", [*states.values()])
    return list(states.values())


def _base(source: str) -> str | None:
    """Address of the source without its last slash; None for the Hub."""
    if source == "hub":
        return None
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(
            f"Unknown source {source!r}: give 'hub', or the http(s) address of a folder with the files, such as "
            f"https://zenodo.org/records/11973457/files."
        )
    if "@" in parts.netloc:
        raise ValueError("The address of the source holds a user name or password, which is not supported: remove it.")
    return source.rstrip("/")


def _failed(root: Path, file: PublishedFile, error: OSError) -> FileState:
    """State of a file that could not be located or downloaded, with the reason."""
    what = str(error) if isinstance(error, DownloadError) else f"{error.strerror or error} ({error.filename})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full: free some space, then run the same command again"
    begun = size_of(part_of(root / file.name))
    return FileState(file.name, "partial" if begun else "missing", begun, what)


def _offers(url: str, patience: Patience) -> bool:
    """False if the server has no such file. Other failures are reported by the download itself."""

    def ask() -> bool:
        with open_url(Request(url, method="HEAD")):
            return True

    try:
        return patiently(ask, url, patience)
    except HTTPError as error:
        return error.code not in (404, 410)
    except DownloadError:
        return True


def _locate(
    checked: Checked,
    file: PublishedFile,
    base: str | None,
    revision: str | None,
    patience: Patience,
    progress: Progress,
) -> tuple[FileState, tuple[str, PublishedFile] | None]:
    """State of a file; and, unless it is correct, its address and the file with all known checksums."""
    revision = revision or file.revision
    pinned = base is not None or revision == file.revision
    file = checked.with_hub_checksum(file) if pinned else replace(file, checksums=(), about="size not known")
    state = file_state(checked, file, progress)
    if pinned and (state.state == "right" or (state.usable and base is not None)):
        return state, None
    if base is not None:
        return state, (f"{base}/{quote(file.name)}", file)
    if "hub" not in file.hosts:
        todo = (
            f"the Hub has no such file: copy it to {checked.root} by hand, or give the address of a server that has it"
        )
        return state if state.usable else replace(state, detail=f"{state.detail}; {todo}"), None
    url, file = _ask_hub(checked, file, revision, patience)
    state = file_state(checked, file, progress)
    return state, None if state.usable else (url, file)


def _ask_hub(checked: Checked, file: PublishedFile, revision: str, patience: Patience) -> tuple[str, PublishedFile]:
    """Address of a file at the commit of `revision`, and the file with size and sha256 reported by the Hub."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as HubError

    def address(revision: str) -> str:
        return hf_hub_url(file.repo, file.name, repo_type="dataset", revision=revision)

    def ask() -> Any:
        try:
            return get_hf_file_metadata(address(revision), timeout=TIMEOUT)
        except OfflineModeIsEnabled:
            raise
        except HfHubHTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            if code < 500 and code not in TRANSIENT:
                raise
            raise NetworkFault(f"it answers {code}") from error
        except (HubError, OSError) as error:
            raise network_fault(error) from error

    try:
        found = patiently(ask, address(revision), patience)
    except (HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise DownloadError(f"{address(revision)}: {' '.join(str(error).split())}") from error
    sha256 = found.etag if found.etag and re.fullmatch("[0-9a-f]{64}", found.etag) else None
    checksum = Checksum(found.size, "sha256" if sha256 else None, sha256)
    if revision == file.revision:
        checked.add_hub_checksum(file.name, checksum)
    known = [c for c in file.checksums if c != checksum]
    return address(found.commit_hash or revision), replace(file, checksums=(*known, checksum))


def _check_space(root: Path, todo: list[Transfer]) -> None:
    """Raises DownloadError if the files, as far as their sizes are known, do not fit on the disk."""
    sizes = [max((checksum.size or 0 for checksum in transfer.file.checksums), default=0) for transfer in todo]
    need = sum(max(0, size - size_of(transfer.part)) for size, transfer in zip(sizes, todo, strict=True))
    _check_free(root, need, ", ".join(transfer.file.name for transfer in todo))


def _check_free(root: Path, need: int, what: str) -> None:
    free = shutil.disk_usage(root).free
    if need > free:
        raise DownloadError(
            f"Not enough disk space in {str(root)!r}: {need:,} bytes are needed ({what}), {free:,} are free. Free "
            f"some, or choose a smaller config or split."
        )


def _get(checked: Checked, transfer: Transfer) -> FileState:
    """Downloads a file, checks it and renames it; returns its state. Raises OSError if that is not possible."""
    file, part = transfer.file, transfer.part
    _fetch(transfer)
    state = file_state(checked, file, transfer.progress, part=True)
    if state.usable:
        os.replace(part, checked.root / file.name)
    else:
        part.unlink()
        state = replace(state, detail=f"{transfer.url} sent a wrong file, which was deleted: {state.detail}")
    _note(part).unlink()
    return replace(state, fetched=transfer.fetched)


def _fetch(transfer: Transfer) -> None:
    """Completes the .part, with pauses between attempts.

    Raises DownloadError if the failure is permanent, or after too many attempts without progress.
    """
    most, failures = size_of(transfer.part), 0
    while True:
        try:
            _continue(transfer)
            return
        except HTTPError as error:
            raise DownloadError(f"{transfer.url} answers {error.code} {error.reason}") from error
        except NetworkFault as fault:
            size = size_of(transfer.part)
            # A server that restarts each time and is cut at the same place makes no progress either.
            failures, most = (0, size) if size > most else (failures + 1, most)
            transfer.patience.wait(transfer.url, fault, failures)


def _note(part: Path) -> Path:
    """JSON file with the address and version of the bytes in `part`."""
    return part.with_name(part.name + ".json")


def _continue(transfer: Transfer) -> None:
    """Requests the rest of the .part once.

    Raises:
        NetworkFault: if it is not complete then, and another attempt may complete it.
        DownloadError, HTTPError: if no other attempt can succeed.
    """
    file, part, url = transfer.file, transfer.part, transfer.url
    expected = [list(astuple(checksum)) for checksum in file.checksums if checksum.digest]
    note = read_json(_note(part)) if _note(part).is_file() else {}
    validator = note.get("validator") if note.get("url") == url else None
    # Continue the same version only: known by the validator of the server, or by the checksum of the whole.
    same = validator is not None or (bool(expected) and note.get("expected") == expected)
    offset = size_of(part) if same else 0
    if offset and any(offset == checksum.size for checksum in file.checksums):
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "bioscan-hf"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    if offset and validator is not None:
        headers["If-Range"] = validator
    try:
        response = open_url(Request(url, headers=headers))
    except HTTPError as error:
        if error.code != 416 or not offset:
            raise
        if error.headers.get("Content-Range") == f"bytes */{offset}":
            return
        part.unlink()
        raise NetworkFault(f"the server has no bytes after {offset:,}: another version of the file") from error
    with response:
        start, total = _extent(response)
        if start != offset and start:
            raise DownloadError(f"{url} sends the bytes from {start:,} instead of {offset:,}")
        sizes = {checksum.size for checksum in file.checksums} - {None}
        if total is not None and sizes and total not in sizes:
            raise DownloadError(f"{url} has {total:,} bytes, published are {file.size}: another version?")
        found = _validator(response)
        if start and validator is not None and found not in (None, validator):
            part.unlink()
            raise NetworkFault("the file has changed on the server")
        if not start:
            part.unlink(missing_ok=True)  # before the note: old bytes never have a new validator
            about = {"url": url, "validator": None if transfer.immutable else found, "expected": expected}
            write_json(_note(part), about)
        _check_free(part.parent, (total or 0) - start, file.name)
        done = _receive(response, transfer, start, total)
    if total not in (None, done):
        raise NetworkFault(f"the connection was interrupted after {done:,} of {total:,} bytes")


def _receive(response: Any, transfer: Transfer, start: int, total: int | None) -> int:
    """Appends a response to the .part; returns its size."""
    done = start
    with open(transfer.part, "ab") as output:
        while True:
            try:
                block = response.read(BLOCK)
            except (OSError, HTTPException) as error:
                raise network_fault(error) from error
            if not block:
                break
            output.write(block)
            done += len(block)
            transfer.fetched += len(block)
            transfer.progress(f"downloading {transfer.file.name}", done, total)
    return done


def _validator(response: Any) -> str | None:
    """Identifies a version of the file: a strong ETag, or the modification time."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _extent(response: Any) -> tuple[int, int | None]:
    """First byte of a response, and the size of the whole file (None if unknown)."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            raise DownloadError(f"{response.url.partition('?')[0]} answers with a range but does not say which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, None if length is None else int(length)

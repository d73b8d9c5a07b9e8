"""Writing files atomically, locks, deletions, JSON and hashes.

A file is written under a unique temporary name in its own folder and then renamed, so readers never see a partial file
and two writers never share a temporary file. Everything that this package writes goes through `replacing`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

#: Largest JSON file that is read, in bytes.
LARGEST_JSON = 64 * 2**20

#: Advice for scripts that start processes, each of which imports the script.
MAIN_GUARD = "Put the code of a script that starts processes under `if __name__ == '__main__':`."

#: Ending of temporary files.
TEMPORARY = ".part"
_TEMPORARY_NAME = re.compile(rf"\..+\.\d+-[0-9a-f]{{8}}{re.escape(TEMPORARY)}")


def temporary_name(path: str | Path) -> Path:
    """A unique temporary path beside `path`, hidden, with the ending `TEMPORARY`."""
    path = Path(path)
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")


def is_hub_id(name: str) -> bool:
    """Whether a name is a repository id, "owner/name", and not a folder of this machine."""
    return bool(re.fullmatch(r"\w[\w.-]{0,95}/[\w.-]{1,96}", name, re.ASCII)) and not Path(name).exists()


def is_missing_path(name: str) -> bool:
    """Whether nothing is at a path that is not meant as a Hub id, so that it is not looked up there.

    It is not one if it has not the form owner/name, if the folder "owner" exists here, or if "owner" is "out", the
    folder of every example.
    """
    is_id = re.fullmatch(r"(?!out/)\w[\w.-]*/[\w.-]+", name) and not Path(name).parent.is_dir()
    return not is_id and not Path(name).exists()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; renamed to `path` at the end, deleted if an error is raised. Makes the folder.

    Example:
        >>> with replacing("vectors.npy") as part, open(part, "wb") as file:
        ...     np.save(file, vectors)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_name(path)
    try:
        yield part
        as_new(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def as_new(path: Path) -> None:
    """Gives a file that only its owner may read, as safetensors writes them, the permissions of a new file."""
    if stat.S_IMODE(path.stat().st_mode) == 0o600:
        new = temporary_name(path)
        new.touch()
        path.chmod(stat.S_IMODE(new.stat().st_mode))
        new.unlink()


@contextmanager
def writing(path: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """An open file whose content becomes `path` at the end. Text is UTF-8 with "\\n" line ends by default.

    Args:
        mode: "w" for text, "wb" for bytes.
        options: Passed to `open`.
    """
    if "b" not in mode:
        options = {"encoding": "utf-8", "newline": "\n", **options}
    with replacing(path) as part, open(part, mode, **options) as file:
        yield file


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically; makes its folder."""
    with writing(path) as file:
        file.write(text)


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def safe_json(content: Any) -> str:
    """JSON for an HTML page: nothing in it can end its element."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").replace("$", "\\u0024")


def read_json(path: str | Path, fields: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Content of a JSON file that holds an object.

    Args:
        fields: Required name -> type. A bool does not count as an int.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not a JSON object, is nested too deeply, is larger than 64 MiB, or a required field
            is missing or has another type; the message names the file and the field.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{str(path)!r} has {path.stat().st_size:,} bytes; at most 64 MiB of JSON are read.")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()  # half of a character could not be written again
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as JSON ({error}). Is the file complete?") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__} instead of an object.")
    for name, kind in (fields or {}).items():
        if name not in content:
            raise ValueError(f"{str(path)!r} has no field {name!r}. Was it written by this package, and completely?")
        value = content[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(
                f"{name!r} in {str(path)!r} is {str(value)[:50]!r} ({type(value).__name__}); its type must be "
                f"{kind.__name__}."
            )
    return content


def file_hash(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: str | Path, what: str, *, wait: bool = False, name: str = ".bioscan_hf.lock") -> Iterator[None]:
    """Holds the lock file `name` in `folder`, so that only one process at a time writes there.

    Args:
        what: The work that is locked, such as "build"; named in the error.
        wait: Waits for another process instead of raising.

    Raises:
        RuntimeError: if another process holds the lock and `wait` is False, or if a worker process imports the script
            that started it, and would wait for the lock forever.
    """
    from filelock import FileLock, Timeout

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(f"A process of the {what} runs this script again. {MAIN_GUARD}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise RuntimeError(
            f"Another {what} is writing to {str(folder)!r}. Wait until it has ended, or choose another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def delete_inside(folder: str | Path, name: str | Path) -> None:
    """Deletes the file `name` of `folder`, if it exists. The only place that deletes what a manifest names.

    Raises:
        ValueError: if the path leads out of `folder`, by "..", an absolute path or a symbolic link.
    """
    folder = Path(folder)
    path = folder / name
    if not path.parent.resolve().is_relative_to(folder.resolve()) or path.name in ("", ".", ".."):
        raise ValueError(f"{str(name)!r} is not a file inside {str(folder)!r}, so it is not deleted.")
    path.unlink(missing_ok=True)


def delete_temporaries(folder: str | Path) -> None:
    """Deletes temporary files that killed processes have left in `folder` and its sub-folders.

    Only names that `temporary_name` makes are deleted: a user's own file may end in .part. Call it while holding the
    lock of the folder.
    """
    for path in Path(folder).rglob(f".*{TEMPORARY}"):
        if _TEMPORARY_NAME.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)

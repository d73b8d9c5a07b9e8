"""Loads files written by `torch.save` without running anything in them.

`torch.load(weights_only=True)` reads the weights. Classes of published training states that it refuses, such as
schedulers or numpy arrays, load as inert placeholders.
"""

from __future__ import annotations

import argparse
import pickletools
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..release.zips import UNREADABLE

#: Names that torch loads. Others that it allows, such as `bytearray`, could allocate any amount of memory.
PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex)|torch\.(Size|device|\w+Storage)|"
    r"torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter)|torch\.storage\.UntypedStorage|"
    + "|".join(sorted({re.escape(str(value)) for value in vars(torch).values() if isinstance(value, torch.dtype)}))
)

#: Subclasses of dict, which load as plain dicts: `defaultdict` and Lightning's hyper-parameters.
DICTS = re.compile(
    r"collections\.defaultdict|(pytorch_lightning\.utilities\.parsing|lightning(_|\.)fabric\.utilities\.data)"
    r"\.AttributeDict"
)

#: Names that load as `Inert`: schedulers, types of Python, numpy's arrays and random states, a Lightning callback, and
#: the options of hydra.
INERT = re.compile(
    r"torch\.optim\.lr_scheduler\.\w+|builtins\.(getattr|dict|frozenset|list|slice|int|float|bool|str)|"
    r"datetime\.timedelta|typing\.Any|"
    r"omegaconf\.(base\.(Container)?Metadata|dictconfig\.DictConfig|listconfig\.ListConfig|nodes\.\w+Node)|"
    r"pathlib(\._local)?\.\w*Path|numpy\.(ndarray|dtype)|numpy\._?core\.multiarray\.(_reconstruct|scalar)|"
    r"numpy\.random\.(_pcg64\.PCG64|_mt19937\.MT19937|_pickle\.__\w+_ctor)|"
    r"numpy\.random\.bit_generator\.(SeedSequence|__pyx_unpickle_SeedSequence)|"
    r"pytorch_lightning\.callbacks\.model_checkpoint\.ModelCheckpoint"
)

_EXPECTED = "Give a file written by torch.save (torch 1.6 or later) that holds a dict with the weights."


class Inert:
    """Placeholder for an object whose class or function is not trusted. It ignores arguments and state."""

    replaces = ""  # name in the file, such as "torch.optim.lr_scheduler.OneCycleLR"

    def __new__(cls, *arguments: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __repr__(self) -> str:
        return f"<inert {self.replaces}>"


class _Dict:
    """Makes a plain dict, because torch adds items only to plain dicts."""

    def __new__(cls, *arguments: Any) -> Any:
        return {}


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads plain data, `argparse.Namespace` and CPU tensors; other known classes become `Inert`.

    Tensors are memory-mapped from the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if torch.save (torch 1.6 or later) did not write the file, it is damaged or compressed, it does not
            hold a dict, its tensors are larger than the file, or it names classes or functions that published files do
            not name (all are named).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {str(path)!r}.")
    try:
        with zipfile.ZipFile(path) as file:
            pickled, stored = _parts(file, path)
    except UNREADABLE as error:
        raise ValueError(f"{str(path)!r} is not a checkpoint, or is cut off ({error}). {_EXPECTED}") from error
    placeholders = _placeholders(pickled, path)
    try:
        with torch.serialization.safe_globals(placeholders):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged or hostile file can fail in any way; torch's text advises an unsafe read
        raise ValueError(f"{str(path)!r} cannot be read: it is damaged or was altered. {_EXPECTED}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__}, not a dict. {_EXPECTED}")
    _check_sizes(_tensors(content), stored, path)
    return content


def _parts(file: zipfile.ZipFile, path: Path) -> tuple[bytes, int]:
    """The pickle, and the number of bytes of all storages; raises ValueError if torch.save did not write the zip."""
    entries = file.infolist()
    names = [entry.filename for entry in entries]
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or any(name.endswith("constants.pkl") for name in names):  # the latter is TorchScript
        raise ValueError(f"{str(path)!r} is a zip, but not of weights. {_EXPECTED}")
    # torch.save does not compress, so the parts are not larger than the file.
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or len(set(names)) < len(names) or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError(f"{str(path)!r} has compressed, repeated or oversized parts. {_EXPECTED}")
    root = pickles[0].removesuffix("data.pkl")
    return file.read(pickles[0]), sum(e.file_size for e in entries if e.filename.startswith(f"{root}data/"))


def _placeholders(pickled: bytes, path: Path) -> list[Any]:
    """Placeholders for `safe_globals`; raises ValueError for names that published files do not hold."""
    try:
        names = {str(arg) for operation, arg, _ in pickletools.genops(pickled) if operation.name == "GLOBAL"}
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{str(path)!r} cannot be read: it is damaged or was altered. {_EXPECTED}") from error
    # torch.save writes protocol 2, with Python 2's name of the builtins.
    names = {re.sub(r"^__builtin__\.", "builtins.", name.replace(" ", ".", 1)) for name in names}
    names = {name.replace("builtins.long", "builtins.int") for name in names}
    found: list[Any] = []
    foreign = []
    for name in names:
        if name == "argparse.Namespace":
            found.append(argparse.Namespace)
        elif DICTS.fullmatch(name):
            found.append((_Dict, name))
        elif INERT.fullmatch(name):
            found.append((type(name.rpartition(".")[2], (Inert,), {"replaces": name}), name))
        elif not PLAIN.fullmatch(name):
            foreign.append(name)
    if foreign:
        raise ValueError(
            f"{str(path)!r} is refused because it names {', '.join(map(repr, sorted(foreign)))}, which published "
            f"checkpoints do not. Nothing in it was run. If it is your own file, save its weights alone with "
            f"torch.save(model.state_dict(), FILE) and give that file."
        )
    return found


def _tensors(content: Any) -> Iterator[Tensor]:
    """Every tensor and storage (as tensor) in nested dicts, sequences, sets and namespaces, each object once."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        if isinstance(value, torch.UntypedStorage):
            yield torch.empty(0, dtype=torch.uint8, device=value.device).set_(value)
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
        if hasattr(value, "__dict__"):
            waiting += vars(value).values()


def _check_sizes(tensors: Iterable[Tensor], stored: int, path: Path) -> None:
    """Raises ValueError for tensors larger than their storage (expanded views), or storages larger than `stored`."""
    storages: dict[int, int] = {}
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
            raise ValueError(f"{str(path)!r} holds a tensor of an unknown kind. {_EXPECTED}")
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = max(storage.nbytes(), storages.get(storage.data_ptr(), 0))
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError(
                f"{str(path)!r} holds a tensor of the shape {tuple(tensor.shape)}, but its storage has "
                f"{storage.nbytes()} bytes. {_EXPECTED}"
            )
    if sum(storages.values()) > stored:
        raise ValueError(f"{str(path)!r} declares more bytes of weights than the {stored} that it has. {_EXPECTED}")

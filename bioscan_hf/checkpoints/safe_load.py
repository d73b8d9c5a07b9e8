"""Reading of published checkpoints (files that torch.save wrote) such that nothing in them runs.

BarcodeBERT's, CLIBD's and the crop tool's checkpoints hold more than weights (schedulers, arguments, loops), and
torch's own safe reader refuses the whole file then. Here the weights and all plain data are read. The classes and
functions that such files are known to name besides are stood in for by inert objects, neither imported nor called;
a file that names any other is refused. Declared sizes are checked against the file before memory is taken.
"""

from __future__ import annotations

import argparse
import functools
import io
import pickle
import pickletools
import re
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: What published files are known to name besides weights, and what stays out. By origin: the bound method in the
#: state of a OneCycleLR; plain Python; arguments of a command line; numbers and random states of numpy; what Lightning
#: keeps of its hyper-parameters and callbacks.
INERT_NAMES = frozenset(
    chain(
        ["builtins.getattr"],
        (f"builtins.{name}" for name in ("bytearray", "complex", "dict", "frozenset", "list", "set", "slice")),
        ["_codecs.encode", "collections.Counter", "collections.defaultdict", "datetime.timedelta"],
        (f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath")),
        ["numpy.ndarray", "numpy.dtype"],
        (f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        ["numpy.random._pcg64.PCG64", "numpy.random._mt19937.MT19937"],
        (f"numpy.random._pickle.__{name}_ctor" for name in ("bit_generator", "generator", "randomstate")),
        (f"numpy.random.bit_generator.{name}" for name in ("SeedSequence", "__pyx_unpickle_SeedSequence")),
        ["pytorch_lightning.utilities.parsing.AttributeDict"],
        [f"{package}.utilities.data.AttributeDict" for package in ("lightning_fabric", "lightning.fabric")],
        ["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"],
    )
)

#: Any class of this module: every scheduler of torch.
INERT_CLASS = re.compile(r"torch\.optim\.lr_scheduler\.\w+")

_DTYPES = frozenset(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))

_STORAGES = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
    "torch.storage.UntypedStorage": torch.uint8,
}

_EXPECTED = "Expected is a file that torch.save (of torch >= 1.6) wrote: a dict with the weights."


class Inert(dict):
    """Stands for an object whose class or function is not trusted; keeps items, ignores arguments and state.

    Attributes:
        replaces: The name in the file, such as "torch.optim.lr_scheduler.OneCycleLR".
    """

    replaces = ""

    def __new__(cls, *arguments: Any, **options: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignores an item of a list."""

    def extend(self, items: Any) -> None:
        """Ignores items of a list."""

    def add(self, item: Any) -> None:
        """Ignores an item of a set."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __repr__(self) -> str:
        return f"<inert {self.replaces}>"


class _Storage(NamedTuple):
    content: torch.UntypedStorage
    dtype: torch.dtype


class RestrictedUnpickler(pickle.Unpickler):
    """Builds tensors and plain data.

    Attributes:
        foreign: Names in the file that are neither harmless nor known to be in published files.
    """

    def __init__(self, pickled: bytes, read: Callable[[str], bytearray]) -> None:
        """Reads `pickled`; `read` gives the bytes of a tensor's storage by its key."""
        super().__init__(io.BytesIO(pickled), encoding="utf-8")
        self.read_storage = read
        self.storages: dict[str, torch.UntypedStorage] = {}
        self.foreign: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """The object of that name if it is harmless, otherwise a new subclass of `Inert`, and never an import."""
        module = {"__builtin__": "builtins"}.get(module, module)  # as Python 2 and early protocols call it
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        # A pickle can set attributes of what it is given: hence copies, which live for one reading.
        if full in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return functools.partial(_tensor)
        if full == "torch._utils._rebuild_parameter":
            return functools.partial(_parameter)
        if full == "argparse.Namespace":
            return type("Namespace", (argparse.Namespace,), {})
        if full in _STORAGES:
            return _STORAGES[full]
        if module == "torch" and (name in ("Size", "device") or name in _DTYPES):
            return getattr(torch, name)
        if full not in INERT_NAMES and not INERT_CLASS.fullmatch(full):
            self.foreign.add(full)
        return type(name.rpartition(".")[2], (Inert,), {"replaces": full})

    def persistent_load(self, saved: Any) -> _Storage:
        """The storage of a tensor: ("storage", type, key, device, number of elements)."""
        kind, dtype, key, _, count = saved
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("a tensor's storage is described in an unknown way")
        if key not in self.storages:
            content = self.read_storage(key)
            whole = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
            self.storages[key] = whole.untyped_storage()
        found = self.storages[key].nbytes()
        if count != found // dtype.itemsize:
            raise pickle.UnpicklingError(f"the storage {key!r} has {found} bytes, but declares {count} of {dtype}")
        return _Storage(self.storages[key], dtype)


def _tensor(
    storage: _Storage, offset: int, size: Any, stride: Any, requires_grad: bool = False, hooks: Any = (), *about: Any
) -> Tensor:
    """A view of a storage. One that reaches beyond it, or has more elements, is refused: it could take any memory."""
    if any(about):
        raise pickle.UnpicklingError("a tensor is conjugated, negated or of another special kind")
    elements = storage.content.nbytes() // storage.dtype.itemsize
    count, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        if length < 0 or step < 0:
            raise pickle.UnpicklingError("a tensor has a negative size or stride")
        count, last = count * length, last + (length - 1) * step
    if offset < 0 or count > elements or (count and last >= elements):
        raise pickle.UnpicklingError(f"a tensor declares the shape {tuple(size)}, but its storage has {elements}")
    return torch.empty(0, dtype=storage.dtype).set_(storage.content, offset, tuple(size), tuple(stride))


def _parameter(data: Tensor, requires_grad: bool = False, hooks: Any = ()) -> Tensor:
    return data


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """What torch.save wrote: plain data, `argparse.Namespace` and tensors, on the CPU; `INERT_NAMES` are `Inert`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if torch.save (of torch >= 1.6) did not write it, it is damaged or compressed, it holds no dict, or
            it names classes or functions that no published file does (all are named).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {str(path)!r}.")
    try:
        with zipfile.ZipFile(path) as file:
            root = _root(file, path)
            content = _unpickled(file, root, path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{str(path)!r} is no checkpoint, or is cut off ({error}). {_EXPECTED}") from error
    if not isinstance(content, dict) or isinstance(content, Inert):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__}, not a dict. {_EXPECTED}")
    return content


def _root(file: zipfile.ZipFile, path: Path) -> str:
    """The folder in the zip that all is in, with its "/"; raises ValueError if torch.save did not write the zip."""
    entries = file.infolist()
    pickles = [entry.filename for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
    script = any(entry.filename.endswith("constants.pkl") for entry in entries)  # TorchScript, which is code
    if len(pickles) != 1 or script:
        raise ValueError(f"{str(path)!r} is a zip, but not of weights. {_EXPECTED}")
    repeated = [name for name, count in Counter(entry.filename for entry in entries).items() if count > 1]
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    # torch.save stores bytes as they are: the parts cannot be larger than the file.
    if repeated or compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        what = f"repeats {repeated[0]!r}" if repeated else "declares more bytes than it has, or is compressed"
        raise ValueError(f"{str(path)!r} {what}, which torch.save never writes. {_EXPECTED}")
    root = pickles[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in file.namelist() and file.read(order).decode("latin-1") != sys.byteorder:
        raise ValueError(f"{str(path)!r} was written on a machine of another byte order. Save it on one like this.")
    return root


def _unpickled(file: zipfile.ZipFile, root: str, path: Path) -> Any:
    def read(key: str) -> bytearray:
        return bytearray(file.read(f"{root}data/{key}"))

    pickled = file.read(f"{root}data.pkl")
    reader = RestrictedUnpickler(pickled, read)
    try:
        # The memo takes memory up to its largest number. A pickle numbers in order: none exceeds the pickle's length.
        operations = pickletools.genops(pickled)
        numbers = [arg for op, arg, _ in operations if "PUT" in op.name and isinstance(arg, int)]
        if max(numbers, default=0) > len(pickled):
            raise pickle.UnpicklingError("its memo declares more objects than it has")
        content = reader.load()
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        if not reader.foreign:
            raise ValueError(f"{str(path)!r} cannot be read ({type(error).__name__}: {error}). {_EXPECTED}") from error
    if reader.foreign:
        raise ValueError(
            f"{str(path)!r} is refused. It names what no published checkpoint does: "
            f"{', '.join(map(repr, sorted(reader.foreign)))}. Nothing of it was run. If it is your own file, save its "
            f"weights alone where it was made, by torch.save(model.state_dict(), FILE), and give that file."
        )
    return content

"""Reading of published checkpoints (files that torch.save wrote) such that nothing in them runs.

BarcodeBERT's, CLIBD's and the crop tool's checkpoints hold more than weights (schedulers, arguments, loops), and
torch's own safe reader refuses the whole file then. Here the weights and all plain data are read, and every class or
function that the file names besides is stood in for by an inert object: it is neither imported nor called.
"""

from __future__ import annotations

import argparse
import functools
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


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


class RestrictedUnpickler(pickle.Unpickler):
    """Builds tensors and plain data; whatever else a file names is `Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        """The object of that name if it is known to be harmless, otherwise a new subclass of `Inert`."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
            # A pickle can set attributes of what it is given: not those of torch's own function, nor of argparse's.
            return functools.partial(getattr(torch._utils, name))
        if (module, name) == ("torch.serialization", "_get_layout"):
            return functools.partial(torch.serialization._get_layout)
        if (module, name) == ("argparse", "Namespace"):
            return type("Namespace", (argparse.Namespace,), {})
        if module == "torch" and (name in ("Size", "device") or name in _DTYPES):
            return getattr(torch, name)
        return type(name.rpartition(".")[2], (Inert,), {"replaces": f"{module}.{name}"})


_DTYPES = frozenset(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """What torch.save wrote: plain data, `argparse.Namespace` and tensors, on the CPU; whatever else is `Inert`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if torch.save (of torch >= 1.6) did not write it, it is damaged, or it holds no dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {str(path)!r}.")
    expected = "Expected is a file that torch.save (of torch >= 1.6) wrote: a dict with the weights."
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.rpartition("/")[2] for name in file.namelist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{str(path)!r} is no checkpoint, or is cut off ({error}). {expected}") from error
    if "data.pkl" not in names or "constants.pkl" in names:  # the latter is TorchScript, which is code
        raise ValueError(f"{str(path)!r} is a zip, but not of weights. {expected}")
    reader = SimpleNamespace(__name__=__name__, Unpickler=RestrictedUnpickler)  # what torch.load uses of a module
    try:
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        raise ValueError(f"{str(path)!r} cannot be read ({type(error).__name__}: {error}). {expected}") from error
    if not isinstance(content, dict) or isinstance(content, Inert):
        raise ValueError(f"{str(path)!r} holds {content!r:.80}, not a dict. {expected}")
    return content

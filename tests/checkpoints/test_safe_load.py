"""Checkpoints are read completely, and code in them does not run."""

import argparse
import collections
import datetime
import hashlib
import io
import json
import operator
import os
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bioscan_hf.checkpoints.safe_load import Inert, load_checkpoint


def tensors(content, prefix=""):
    """Path -> tensor for every tensor in nested dicts and lists."""
    if isinstance(content, torch.Tensor):
        return {prefix: content}
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found = {}
    for key, value in items:
        found |= tensors(value, f"{prefix}/{key}")
    return found


@pytest.fixture
def training_state() -> dict:
    """A checkpoint of a trainer: weights, optimizer, and a scheduler whose state has a bound method."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"anneal_func": scheduler._annealing_cos, "last_epoch": 0},
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "types": [torch.float16, torch.Size([2, 3]), torch.device("cpu")],
        "epoch": 3,
        "config": argparse.Namespace(k_mer=4, dataset_name="CANADA-1.5M"),
    }


def test_reads_a_training_state_that_torch_refuses(training_state, tmp_path):
    """Weights, optimizer state, numbers and arguments are equal; the bound method is inert."""
    path = tmp_path / "checkpoint.pt"
    torch.save(training_state, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    content = load_checkpoint(path)
    expected, found = tensors(training_state), tensors(content)
    # 2 weights; for each of them exp_avg, exp_avg_sq and step; 1 parameter
    assert len(expected) == 9 and set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert content["epoch"] == 3 and content["types"] == training_state["types"]
    assert isinstance(content["scheduler"]["anneal_func"], Inert)
    assert isinstance(content["config"], argparse.Namespace)
    assert (content["config"].k_mer, content["config"].dataset_name) == (4, "CANADA-1.5M")


class Call:
    """Pickles as a call, which a plain unpickler runs."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def make_file(path: str) -> str:
    open(path, "w").close()
    return path


def attacks(trace) -> dict:
    """Objects whose unpickling creates the file or folder `trace`."""
    make = f"open({str(trace)!r}, 'w').close()"
    inner = io.BytesIO()
    torch.save(Call(open, str(trace), "w"), inner)
    return {
        "os.system": Call(os.system, f"touch {trace}"),
        "open": Call(open, str(trace), "w"),
        "exec": Call(exec, make),
        "eval": Call(eval, f"open({str(trace)!r}, 'w')"),
        "a function of this module": Call(make_file, str(trace)),
        "getattr, then call": Call(operator.call, Call(getattr, Path(trace), "touch")),
        "inside arguments": argparse.Namespace(deep=[{"er": Call(os.mkdir, str(trace))}]),
        "torch.load within": Call(torch.storage._load_from_bytes, inner.getvalue()),
        "import": Call(operator.call, Call(operator.attrgetter("mkdir"), Call(__import__, "os")), str(trace)),
    }


#: Attack -> names in the error.
FOREIGN = {
    "os.system": [f"{os.system.__module__}.system"],
    "open": [f"{open.__module__}.open"],
    "exec": ["builtins.exec"],
    "eval": ["builtins.eval"],
    "a function of this module": [f"{__name__}.make_file"],
    "getattr, then call": ["_operator.call"],
    "inside arguments": [f"{os.mkdir.__module__}.mkdir"],
    "torch.load within": ["torch.storage._load_from_bytes"],
    "import": ["builtins.__import__", "operator.attrgetter"],
}


@pytest.mark.parametrize("way", attacks("").keys())
def test_nothing_in_a_file_runs(way, tmp_path):
    """Each attack creates a file with a plain unpickler (shown first), but not here."""
    trace, path = tmp_path / "trace", tmp_path / "checkpoint.pt"
    torch.save({"model": {"weight": torch.ones(2)}, "extra": attacks(trace)[way]}, path)
    torch.load(path, weights_only=False)
    assert trace.exists()
    trace.rmdir() if trace.is_dir() else trace.unlink()
    with pytest.raises(ValueError, match="is refused because it names ") as raised:
        load_checkpoint(path)
    assert not trace.exists()
    assert all(repr(name) in str(raised.value) for name in FOREIGN[way])


class Listed(list):
    """A subclass of list that published files do not hold."""


def test_every_foreign_name_is_in_the_error(tmp_path):
    path = tmp_path / "checkpoint.ckpt"
    torch.save({"a": Listed([1, 2]), "c": {Call(make_file, "x"): 1}, "d": torch.ones(1)}, path)
    with pytest.raises(
        ValueError, match=rf"names '{__name__}.Listed', '{__name__}.make_file', which .* Nothing in it was run"
    ):
        load_checkpoint(path)


def test_other_known_classes_are_plain_or_inert(tmp_path):
    """numpy objects, paths and schedulers are inert; plain types and dicts keep their content."""
    path = tmp_path / "checkpoint.ckpt"
    inert = {
        "random": [np.random.default_rng(0), np.random.RandomState(0)],
        "accuracy": [np.float64(0.5)],
        "other": [frozenset(), slice(1), datetime.timedelta(1), Path("x")],
        "lr_schedulers": [torch.optim.lr_scheduler.LRScheduler.__new__(torch.optim.lr_scheduler.StepLR)],
    }
    plain = {
        "plain": [{1}, b"bytes", 1j],
        "state": collections.defaultdict(dict, {"step": 1}),
        "milestones": collections.Counter([3]),
    }
    torch.save(inert | plain | {"weight": torch.ones(2)}, path)
    content = load_checkpoint(path)
    assert content.keys() == inert.keys() | plain.keys() | {"weight"} and torch.equal(content["weight"], torch.ones(2))
    values = [value for key in inert for value in content[key]]
    assert len(values) == 8 and all(isinstance(value, Inert) for value in values)
    assert {key: content[key] for key in plain} == plain
    assert repr(content["lr_schedulers"][0]) == "<inert torch.optim.lr_scheduler.StepLR>"


@pytest.mark.parametrize("name", ["builtins.bytearray", "torch.FloatTensor"])
def test_names_that_allocate_memory_raise(name, tmp_path):
    """torch.load calls these with any number of bytes, such as bytearray(2**40)."""
    path = tmp_path / "checkpoint.pt"
    torch.save({}, path)
    module, _, attribute = name.rpartition(".")
    number = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # LONG1: 2**40
    rewrite(path, b"\x80\x02}X\x01\x00\x00\x00wc" + f"{module}\n{attribute}\n".encode() + number + b"\x85Rs.")
    with pytest.raises(ValueError, match=f"is refused because it names '{name}'"):
        load_checkpoint(path)


def test_files_cannot_change_functions_of_torch(tmp_path):
    """A pickle can set attributes of objects, but not of functions and classes.

    The pickle is written by hand: GLOBAL, a state (None, {"__name__": "altered"}), BUILD, STOP.
    """
    path = tmp_path / "checkpoint.pt"
    for name in ("torch._utils\n_rebuild_tensor_v2", "argparse\nNamespace"):
        torch.save({}, path)
        hostile = b"\x80\x02c" + name.encode() + b"\nN}X\x08\x00\x00\x00__name__X\x07\x00\x00\x00altereds\x86b."
        rewrite(path, hostile)
        with pytest.raises(ValueError, match="cannot be read|not a dict"):
            load_checkpoint(path)
    assert torch._utils._rebuild_tensor_v2.__name__ == "_rebuild_tensor_v2"
    assert argparse.Namespace.__name__ == "Namespace"


def rewrite(path, pickled: bytes, compression=zipfile.ZIP_STORED, twice=False) -> None:
    """Replaces the pickle inside a file that torch.save wrote."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in content.items():
            file.writestr(name, pickled if name.endswith("data.pkl") else data)
        if twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                file.writestr(name, data)


def pickled_of(path) -> bytes:
    with zipfile.ZipFile(path) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))


def rebuild(size: str, stride: str, count: str = "K\x04") -> bytes:
    """The pickle of {"w": a tensor of 4 numbers}, by hand, with another shape, stride or size of the storage."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += count.encode("latin-1") + b"tQ"
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00"
        + size.encode("latin-1")
        + stride.encode("latin-1")
        + b"\x89}tR"
    )
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"s."


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (rebuild("K\x05\x85", "K\x01\x85"), "cannot be read"),
        (rebuild("J\x00\x00\x00\x7f\x85", "K\x00\x85"), r"the shape \(2130706432,\), but its storage has 16 bytes"),
        (rebuild("J\x00\x00\x00\x7f\x85", "K\x01\x85"), "cannot be read"),
        (rebuild("K\x02\x85", "K\x04\x85"), "cannot be read"),
        (rebuild("J\xff\xff\xff\xff\x85", "K\x01\x85"), "cannot be read"),
        (rebuild("K\x04\x85", "K\x01\x85", "J\x00\x00\x00\x7f"), "more bytes of weights than the 16 that it has"),
        (rebuild("K\x06\x85", "K\x01\x85", "K\x06"), "more bytes of weights than the 16 that it has"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "cannot be read"),
        (  # UntypedStorage(2**32)
            b"\x80\x02}X\x01\x00\x00\x00wctorch.storage\nUntypedStorage\n\x8a\x05\x00\x00\x00\x00\x01\x85Rs.",
            "more bytes of weights than the 16 that it has",
        ),
    ],
)
def test_declared_sizes_are_checked(pickled, message, tmp_path):
    """Each declares gigabytes or a wrong size; a correct pickle written by hand is read."""
    path = tmp_path / "checkpoint.pt"
    torch.save({"w": torch.arange(4.0)}, path)
    rewrite(path, pickled)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message) as raised:
        load_checkpoint(path)
    assert "weights_only=False" not in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "kB"
    rewrite(path, rebuild("K\x04\x85", "K\x01\x85"))
    assert load_checkpoint(path)["w"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("where", ["tuple", "attribute", "key"])
def test_nested_tensors_are_checked(where, tmp_path):
    path = tmp_path / "checkpoint.pt"
    view = torch.ones(1).expand(2**36)
    content = {"tuple": {"a": [({}, view)]}, "attribute": {"a": argparse.Namespace(b=view)}, "key": {view: 1}}[where]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"the shape \(68719476736,\), but its storage has 4 bytes"):
        load_checkpoint(path)


def test_compressed_and_repeated_parts_raise(tmp_path):
    """torch.save does not compress: 100 MB of zeros in 100 kB of zip are an attack."""
    path = tmp_path / "checkpoint.pt"
    torch.save({"weight": torch.zeros(10_000)}, path)
    whole = path.read_bytes()
    rewrite(path, pickled_of(path), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="has compressed, repeated or oversized parts"):
        load_checkpoint(path)
    path.write_bytes(whole)
    rewrite(path, pickled_of(path), twice=True)
    with pytest.raises(ValueError, match="has compressed, repeated or oversized parts"):
        load_checkpoint(path)


def test_nested_references_do_not_explode(tmp_path):
    """A list of ten references to a list of ten references, ... 30 levels deep, is not printed or copied."""
    path = tmp_path / "checkpoint.pt"
    nested: list = []
    for _ in range(30):
        nested = [nested] * 10
    torch.save({"weight": torch.ones(1), "nested": nested}, path)
    assert torch.equal(load_checkpoint(path)["weight"], torch.ones(1))
    torch.save(nested, path)
    with pytest.raises(ValueError, match="holds a list, not a dict"):
        load_checkpoint(path)


def test_shared_and_strided_tensors_are_equal(tmp_path):
    """Views keep shape and storage; every dtype is read."""
    path = tmp_path / "checkpoint.pt"
    base = torch.arange(12.0).reshape(3, 4)
    types = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int32, torch.bool)
    several = {str(dtype): torch.ones(3, dtype=dtype) for dtype in types}
    content = {"base": base, "view": base.T[1:], "scalar": torch.tensor(2.0), "empty": torch.empty(0, 3), **several}
    torch.save(content, path)
    found = load_checkpoint(path)
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in content.items()
    )
    assert found["view"].stride() == (1, 4)
    found["base"][0, 1] = 100.0
    assert found["view"][0, 0] == 100.0


def test_other_files_raise(tmp_path):
    """Missing, text, cut off, a plain pickle, TorchScript, a whole model, a tensor."""
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        load_checkpoint(path)
    torch.save({"weight": torch.ones(100)}, path)
    whole = path.read_bytes()
    for content in (b"text", whole[: len(whole) // 2], pickle.dumps({"weight": 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a checkpoint, or is cut off"):
            load_checkpoint(path)
    for content in (torch.nn.Linear(2, 2), torch.ones(2)):
        torch.save(content, path)
        with pytest.raises(ValueError, match="not a dict|'torch.nn.modules.linear.Linear'"):
            load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", b"")
        file.writestr("model/constants.pkl", b"")
    with pytest.raises(ValueError, match="not of weights"):
        load_checkpoint(path)


@pytest.mark.parametrize("folder", ["barcodebert/checkpoints", "barcodebert", "barcodemae", "clibd"])
def test_reads_the_published_layouts(folder, reference):
    """Tensors of every reference checkpoint that is here equal those of torch.load."""
    paths = (reference / folder).weights().values()
    compared = 0
    for path in paths:
        found, expected = tensors(load_checkpoint(path)), tensors(torch.load(path, weights_only=False))
        assert found and found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        compared += len(expected)
    assert compared > 30


#: Name of a reference checkpoint -> hash of its contents, as version 0.1.0 read it.
CONTENTS = json.loads((Path(__file__).parents[1] / "fixtures" / "checkpoint_contents.json").read_text())


def test_the_table_of_layouts_names_every_reference_file():
    """What is not converted, the CNN, too."""
    page = (Path(__file__).parents[2] / "docs/guides/checkpoints.md").read_text(encoding="utf-8")
    table = page.partition("## Layouts")[2]
    assert len(CONTENTS) == 23 and [name for name in CONTENTS if f"`{Path(name).name}`" not in table] == []


def description(content) -> str:
    """Keys, types, numbers and tensors (shape, type, hash of the bytes) in order, as text."""
    if isinstance(content, torch.Tensor):
        numbers = content.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if content.numel() else b""
        return f"{tuple(content.shape)}{content.dtype}{hashlib.sha256(numbers).hexdigest()}"
    if hasattr(content, "replaces"):  # inert
        return repr(content)
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if isinstance(content, dict):
        return "{" + ",".join(f"{key!r}:{description(value)}" for key, value in content.items()) + "}"
    if isinstance(content, list | tuple):
        return "[" + ",".join(map(description, content)) + "]"
    return repr(content)


def test_contents_equal_those_of_version_0_1(reference):
    """Names, order, numbers and options of the files that are here, as hashes stored with version 0.1.0."""
    found = {
        name: hashlib.sha256(description(load_checkpoint(path)).encode()).hexdigest()
        for name, path in reference.weights().items()
        if name in CONTENTS
    }
    assert len(found) >= 6 and found == {name: CONTENTS[name] for name in found}

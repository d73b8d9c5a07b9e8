"""Checkpoints are read whole, and nothing in them runs."""

import argparse
import operator
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from bioscan_hf.unpickling import Inert, load_checkpoint


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
    """A checkpoint as trainers write it: weights, optimizer, and a scheduler whose state holds a bound method."""
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
    """Weights, optimizer state, numbers and arguments come back; the bound method is an inert object."""
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
    """Pickles as a call, which a plain unpickler carries out."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def make_file(path: str) -> str:
    open(path, "w").close()
    return path


def attacks(trace) -> dict:
    make = f"open({str(trace)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {trace}"),
        "open": Call(open, str(trace), "w"),
        "exec": Call(exec, make),
        "a function of this module": Call(make_file, str(trace)),
        "getattr, then call": Call(operator.call, Call(getattr, Path(trace), "touch")),
        "inside arguments": argparse.Namespace(deep=[{"er": Call(os.mkdir, str(trace))}]),
    }


@pytest.mark.parametrize("way", attacks("").keys())
def test_nothing_in_a_file_runs(way, tmp_path):
    """Each of these touches the disk in a plain unpickler (shown first), and does not here."""
    trace, path = tmp_path / "trace", tmp_path / "checkpoint.pt"
    torch.save({"model": {"weight": torch.ones(2)}, "extra": attacks(trace)[way]}, path)
    torch.load(path, weights_only=False)
    assert trace.exists()
    trace.rmdir() if trace.is_dir() else trace.unlink()
    content = load_checkpoint(path)
    assert not trace.exists()
    assert torch.equal(content["model"]["weight"], torch.ones(2))


class Grown(dict):
    """A dict of a class of its own, as Lightning's hyper-parameters are."""


class Listed(list):
    """A list of a class of its own."""


def test_containers_of_unknown_classes_do_not_stop_the_reading(tmp_path):
    path = tmp_path / "checkpoint.ckpt"
    torch.save({"a": Grown(lr=0.1), "b": Listed([1, 2]), "c": {Call(make_file, "x"): 1}, "d": torch.ones(1)}, path)
    content = load_checkpoint(path)
    assert isinstance(content["a"], Inert) and content["a"]["lr"] == 0.1
    assert repr(content["b"]).endswith("Listed>") and content["d"] == 1


def test_a_file_cannot_alter_functions_of_torch(tmp_path):
    """A pickle may set attributes of what it names; here these are copies that live for one reading.

    The pickle is made by hand: GLOBAL, a state (None, {"__name__": "altered"}), BUILD, STOP.
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


def rewrite(path, pickled: bytes) -> None:
    """Replaces the pickle inside a file that torch.save wrote."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, pickled if name.endswith("data.pkl") else data)


def test_refuses_what_is_no_checkpoint(tmp_path):
    """Missing, text, cut off, an old plain pickle, TorchScript, a whole model, a bare tensor: each is named."""
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        load_checkpoint(path)
    torch.save({"weight": torch.ones(100)}, path)
    whole = path.read_bytes()
    for content in (b"text", whole[: len(whole) // 2], pickle.dumps({"weight": 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no checkpoint, or is cut off"):
            load_checkpoint(path)
    for content in (torch.nn.Linear(2, 2), torch.ones(2)):
        torch.save(content, path)
        with pytest.raises(ValueError, match="not a dict"):
            load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", b"")
        file.writestr("model/constants.pkl", b"")
    with pytest.raises(ValueError, match="not of weights"):
        load_checkpoint(path)


@pytest.mark.parametrize("folder", ["barcodebert/checkpoints", "barcodebert", "clibd"])
def test_reads_the_published_layouts(folder, shared):
    """Every reference checkpoint is read, with the tensors that torch reads."""
    paths = sorted(path for path in (shared / "fixtures" / folder).iterdir() if path.suffix in (".pt", ".pth"))
    assert len(paths) >= 5
    compared = 0
    for path in paths:
        found = tensors(load_checkpoint(path))
        assert found
        try:
            expected = tensors(torch.load(path, weights_only=True))
        except pickle.UnpicklingError:
            expected = tensors(torch.load(path, weights_only=False))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        compared += len(expected)
    assert compared > 100

"""Malicious files are refused with an error, or read without harm, in bounded memory.

Elsewhere: checkpoints with code or absurd sizes in test_safe_load; decompression bombs of photos in test_build;
damaged metadata and zips in test_check.
"""

import html.parser
import io
import json
import pickle
import re
import resource
import struct
import tracemalloc
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.cards import read_results
from bioscan_hf.dataset.card import dataset_card
from bioscan_hf.encoders.embed import load_embeddings
from bioscan_hf.hub.cards import barcodebert_card, clibd_card
from bioscan_hf.hub.dataset_cards import clustering_card, index_card
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.configuration_barcodemamba import BarcodeMambaConfig
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.release import zips
from bioscan_hf.release.photos import Photos
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.release.zips import LARGEST_PHOTO, read_index
from bioscan_hf.schema import image_path
from bioscan_hf.search.index import build_index, load_index, save_index

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = BarcodeBertConfig(k=2, max_nucleotides=20, **SMALL)
DEEP = 100 * 2**20

#: HTML, a link, an end of the table's cell, and what would end the YAML or fill in a template.
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> [a](javascript:alert(3)) | `b` \n---\n$title ${header}"


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def bounded():
    """Fails if the test used more than 1 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "kB of this process at its largest"


def nested(path, begin=""):
    path.write_bytes(begin.encode() + b"[" * DEEP)
    return path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "training_args.bin"])
def test_a_pickle_in_a_model_folder_is_not_run(name, tmp_path):
    """Neither instead of the weights nor beside them."""
    marker = tmp_path / "executed"
    with open(tmp_path / "check.pkl", "wb") as file:
        pickle.dump(Code(marker), file)
    pickle.loads((tmp_path / "check.pkl").read_bytes()).close()
    assert marker.exists(), "the file would do harm if it were unpickled"
    marker.unlink()
    CONFIG.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).write_bytes((tmp_path / "check.pkl").read_bytes())
    with pytest.raises(Exception, match="(?i)weights_only|no file named|unpickl"):
        AutoModel.from_pretrained(tmp_path / "model")
    BarcodeBertModel(CONFIG).save_pretrained(tmp_path / "model")
    AutoModel.from_pretrained(tmp_path / "model")
    assert not marker.exists()


def test_a_deeply_nested_tokenizer_is_refused(bounded, tmp_path):
    KmerTokenizer(k=2, max_nucleotides=20).save_pretrained(tmp_path)
    nested(tmp_path / "tokenizer.json", '{"version": "1.0", "model": ')
    for load in (KmerTokenizer.from_pretrained, AutoTokenizer.from_pretrained):
        with pytest.raises(Exception, match="(?i)recursion|stack overflow"):
            load(tmp_path)


def test_a_deeply_nested_config_is_refused(bounded, tmp_path):
    nested(tmp_path / "config.json", '{"model_type": "barcodebert", "taxa": ')
    with pytest.raises((RecursionError, OSError, ValueError)):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [BarcodeBertConfig, BarcodeMambaConfig, AlignedBarcodeConfig, ClibdConfig])
@pytest.mark.parametrize("value", ["four", [4], {"a": 4}, None, 4.5])
def test_a_config_with_wrong_types_is_refused(config, value, tmp_path):
    """The error names the field. The right value passes, so the type is what is refused."""
    field = "projection_dim" if config is ClibdConfig else "hidden_size"
    right = config().to_dict()
    (tmp_path / "config.json").write_text(json.dumps(right))
    assert type(AutoConfig.from_pretrained(tmp_path)) is config
    (tmp_path / "config.json").write_text(json.dumps(right | {field: value}))
    with pytest.raises(Exception, match=field):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (BarcodeBertConfig, "k", "4"),
        (BarcodeBertConfig, "vocabulary", ["barcodebert"]),
        (BarcodeBertConfig, "taxa", [1, 2]),
        (BarcodeMambaConfig, "objective", 1),
        (AlignedBarcodeConfig, "profile_weight", "1"),
        (ClibdConfig, "dna_config", "a string"),
        (ClibdConfig, "text_config", [1]),
        (ClibdConfig, "logit_scale_max", "100"),
    ],
)
def test_fields_of_our_own_are_checked_too(config, field, value, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config().to_dict() | {field: value}))
    with pytest.raises(Exception, match=field):
        AutoConfig.from_pretrained(tmp_path)


class Tags(html.parser.HTMLParser):
    """HTML tags of a text."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


def hostile_cards(folder):
    """A card of every kind with malicious text in every value."""
    about = {"dataset": EVIL, "splits": {EVIL: 1}, "options": {"note": EVIL, EVIL: [EVIL, {"a": EVIL}], "model": EVIL}}
    model = {"k": EVIL, "parameters": EVIL, "hidden_size": EVIL, "num_hidden_layers": EVIL, "classes": {EVIL: EVIL}}
    scores = {EVIL: {EVIL: {"support": EVIL, "micro_accuracy": 0.5, "macro_accuracy": 0.5, "f1_macro": 0.5}}}
    trained = {"train_loss_nats": EVIL, "independent": scores, "consistent": scores}
    yield barcodebert_card(EVIL, {"task": "barcodebert/pretrain", "model": model, "metrics": {EVIL: EVIL}, **about})
    yield barcodebert_card(EVIL, {"task": "barcodebert/finetune", "model": model, "metrics": trained, **about})
    clibd = {"modalities": ["image", "dna"], "projection_dim": 3, "parameters": 4, "trained_parameters": 5}
    part = {"macro": {"1": {EVIL: 0.5}}, "chance": {"macro": {"1": {EVIL: 0.5}}}}
    retrieval = {EVIL: {"seen": part, "unseen": part, "harmonic_mean": part}}
    metrics = {"train_loss_nats": 0.5, "retrieval": retrieval}
    yield clibd_card(EVIL, {"task": "clibd/train", "model": clibd, "metrics": metrics, **about})
    rank = {"labelled": 1, "classes": 1, "ami": 0.5, "ami_labelled": 0.5}
    rank |= {"homogeneity_labelled": EVIL, "completeness_labelled": None}
    clusters = {"seeds": [0], "specimens": 3, "protocol": EVIL, "modalities": {EVIL: 3}, "metrics": {EVIL: rank}}
    yield clustering_card(EVIL, {"task": "bioscan5m/clustering", **clusters, **about})
    index = save_index(build_index(np.eye(2), {EVIL: [EVIL, None]}), folder / "index")
    yield index_card(EVIL, index, {"task": "clibd/retrieval", "metrics": {"model": {"tables": retrieval}}, **about})
    yield dataset_card(EVIL, ["dna"], {EVIL: 1}, {"dna": EVIL})


def test_html_in_a_card_is_text(tmp_path):
    """Outside code, no value opens a tag, a link or a table column, or ends the YAML."""
    cards = list(hostile_cards(tmp_path))
    assert len(cards) == 6
    for card in cards:
        _, header, body = card.split("\n---\n" if card.startswith("\n") else "---\n", 2)
        assert "alert" in body, "the value is there"
        prose = "".join(part for i, part in enumerate(body.split("```")) if i % 2 == 0)
        prose = re.sub(r"(?<!\\)`[^`]*`", "", prose)  # in code, HTML is text
        tags = Tags()
        tags.feed(prose)
        assert tags.found == []
        assert "](javascript" not in prose.replace("\\[a](javascript", "")
        for block in prose.split("\n\n"):  # a table has as many columns in every row
            lines = [line for line in block.splitlines() if line.startswith("| ")]
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) <= 1
        assert ModelCard(card).data is not None


def test_a_source_with_backticks_stays_code():
    """The name of a built release is code, which only a backtick could end."""
    card = dataset_card(EVIL, ["dna"], {"train": 1}, {"dna": "0"})
    line = next(line for line in card.splitlines() if line.startswith("Built by"))
    assert line.count("`") == 2 and line.endswith("`.")


def test_an_invalid_results_file_is_refused(bounded, tmp_path):
    """Nested too deeply, too large, or not an object."""
    path = tmp_path / "results.json"
    with pytest.raises(ValueError, match="Not a results file: .* at most 64 MiB"):
        read_results(nested(path))
    path.write_bytes(b"[" * 10_000_000)
    with pytest.raises(ValueError, match="Not a results file: .*(recursion|Stack overflow)"):
        read_results(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="Not a results file: .* holds a list instead of an object. Give the"):
        read_results(path)
    path.write_text('{"task": {"a": []}}')
    with pytest.raises(ValueError, match="give results of"):
        barcodebert_card("x", read_results(path))


def lying(path, size=2**62, header=b"{}"):
    """A safetensors file that claims a header of `size` bytes."""
    path.write_bytes(struct.pack("<Q", size) + header)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 90 * 2**20) + b"{}",
        b"short",
        *(
            struct.pack("<Q", len(header)) + header + b"\0" * 16
            for header in (
                b'{"vectors": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 16]}}',
                b'{"vectors": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 4000000000000]}}',
                b'{"vectors": {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 0]}}',
                b"[" * 200_000,
            )
        ),
    ],
)
def test_a_safetensors_file_with_a_lying_header_is_refused(content, bounded, tmp_path):
    """As weights of a model and as vectors of an index."""
    BarcodeBertModel(CONFIG).save_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(content)
    with pytest.raises((SafetensorError, OSError)):
        AutoModel.from_pretrained(tmp_path / "model")
    index = save_index(build_index(np.eye(2), {"species": ["A", "B"]}), tmp_path / "index")
    (index / "vectors.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="A file of the index .* is damaged .*. Build the index again"):
        load_index(index)


@pytest.mark.parametrize("name", ["vectors.safetensors", "labels.parquet", "index.faiss"])
def test_a_pickle_in_an_index_is_not_run(name, tmp_path):
    """Nor an npz of objects, which numpy could unpickle."""
    marker = tmp_path / "executed"
    for content in (pickle.dumps(Code(marker)), npz(Code(marker))):
        folder = tmp_path / f"index-{len(content)}"
        save_index(build_index(np.eye(2), {"species": ["A", "B"]}), folder)
        if name == "index.faiss":
            pytest.importorskip("faiss")
            about = json.loads((folder / "index.json").read_text())
            (folder / "index.json").write_text(json.dumps(about | {"kind": "hnsw"}))
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match="A file of the index .* is damaged"):
            load_index(folder)
    assert not marker.exists()


def npz(thing):
    buffer = io.BytesIO()
    np.savez(buffer, vectors=np.array([thing], object))
    return buffer.getvalue()


def test_an_embeddings_folder_with_objects_is_refused(tmp_path):
    """Only Parquet is read: an npy or pickle instead of a shard is refused, and one beside the shards is ignored."""
    marker = tmp_path / "executed"
    manifest = {"rows": 2, "shard_size": 2, "format": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    shard = tmp_path / "embeddings-00000-of-00001.parquet"
    buffer = io.BytesIO()
    np.save(buffer, np.array([Code(marker)], object))
    for content in (buffer.getvalue(), pickle.dumps(Code(marker))):
        shard.write_bytes(content)
        with pytest.raises(ValueError, match="parquet is damaged .*. Delete it, and run embed again"):
            load_embeddings(tmp_path)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4, np.float32)), 2)
    pq.write_table(pa.table({"processid": ["a", "b"], "embedding": vectors, "valid": [True, True]}), shard)
    (tmp_path / "embeddings.npy").write_bytes(buffer.getvalue())
    assert load_embeddings(tmp_path).embeddings.shape == (2, 2)
    assert not marker.exists()


def photo_zip(root, name, data, **sizes):
    """A release with one zip of photos that has one member."""
    root.mkdir(parents=True, exist_ok=True)
    with ZipFile(root / "BIOSCAN_5M_cropped_256.zip", "w", ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return root


def test_a_member_of_a_zip_that_unpacks_to_more_than_a_photo_is_refused(monkeypatch, tmp_path):
    """With a limit of 1 MB, a member of 64 MB compressed to 64 kB is not unpacked much further."""
    assert LARGEST_PHOTO < 2**30
    monkeypatch.setattr(zips, "LARGEST_PHOTO", 2**20)
    root = photo_zip(tmp_path / "release", image_path("P0", "train", "cropped_256"), bytes(2**26))
    photos = Photos(root, "cropped_256")
    tracemalloc.start()
    try:
        with pytest.raises(ReleaseError, match="more than a photo, 1,048,576 bytes"):
            photos.read("P0", "train")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
        photos.close()


def test_zip_members_with_outside_paths_write_nothing(tmp_path):
    """No member is unpacked under its own name, so ../ has no effect."""
    names = ["../../evil.jpg", "/tmp/evil-bioscan.jpg", "bioscan5m/images/cropped_256/train/00/../../../../../P0.jpg"]
    for number, name in enumerate(names):
        root = photo_zip(tmp_path / f"{number}/release", name, b"evil")
        before = sorted(tmp_path.rglob("*"))
        photos = Photos(root, "cropped_256", index=tmp_path / f"{number}/index")
        photos.open()
        photos.close()
        new = set(tmp_path.rglob("*")) - set(before)
        assert all(tmp_path / f"{number}/index" in (path, *path.parents) for path in new)
        assert not [path for path in new if "evil" in path.name or path.name == "P0.jpg"]
    assert not Path("/tmp/evil-bioscan.jpg").exists()


def test_an_index_of_zips_with_objects_is_refused(tmp_path):
    """The arrays of an index are read without unpickling."""
    marker = tmp_path / "executed"
    stem = tmp_path / "0000"
    for kind in ("names", "entries"):
        np.save(f"{stem}.{kind}.npy", np.array([Code(marker)], object))
    about = [{"path": str(tmp_path / "x.zip"), "label": "x", "stem": str(stem)}]
    (tmp_path / "index.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="(?i)python objects|pickle"):
        read_index(tmp_path)
    assert not marker.exists()

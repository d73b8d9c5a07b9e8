"""`embed` against the model called by hand, with padding cut off or not, on disk and back, interrupted, and in two
processes."""

import json
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from bioscan_hf.barcodes import spell
from bioscan_hf.encoders import batches as embedding_batches
from bioscan_hf.encoders import embed as embedding_module
from bioscan_hf.encoders.embed import embed, model_fingerprint
from bioscan_hf.encoders.kmers import kmer_counts, kmer_encoder
from bioscan_hf.encoders.stored import load_embeddings
from bioscan_hf.evaluation.specimens import load_specimens
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer


def barcodes(n=70, seed=0):
    """Barcodes of 30 to 60 nucleotides; row 3 is too short for a token of 4, row 8 empty, row 11 holds an N."""
    rng = np.random.default_rng(seed)
    rows = ["".join(rng.choice(list("ACGT"), size)) for size in rng.integers(30, 61, size=n)]
    rows[3], rows[8], rows[11] = "ACG", "", "ACGTNACGTACGT"
    return rows


@pytest.fixture
def dataset():
    rows = barcodes()
    return Dataset.from_dict({"processid": [f"P{i:03d}" for i in range(len(rows))], "dna_barcode": rows})


def tiny_model(pooling="masked_mean", seed=0):
    torch.manual_seed(seed)
    return BarcodeBertModel(
        BarcodeBertConfig(
            k=4,
            max_nucleotides=64,
            pooling=pooling,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=0.5,
        )
    )


@pytest.fixture
def tokenizer():
    return KmerTokenizer(k=4, max_nucleotides=64)


class Counting(torch.nn.Module):
    """The mean code of a barcode's letters; counts the rows that it has seen."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.rows = 0

    def forward(self, codes):
        self.rows += len(codes)
        return SimpleNamespace(pooler_output=codes.float().mean(1, keepdim=True) * self.scale)


def letters(rows):
    """The simplest processor: codes of the first 8 letters, as a numpy array."""
    return {"codes": np.array([list(row[:8].ljust(8).encode()) for row in rows])}


def by_hand(model, tokenizer, rows):
    """One barcode at a time, nothing cut off."""
    model.eval()
    with torch.no_grad():
        return np.concatenate([model(**tokenizer([row], return_tensors="pt")).pooler_output.numpy() for row in rows])


@pytest.mark.parametrize("pooling", ["masked_mean", "mean"])
@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 8192), (3, 8192), (4, 30), (256, 8192)])
def test_equals_the_model_row_by_row(dataset, tokenizer, pooling, batch_size, shard_size):
    """Sorting, cutting and batching must change neither order nor values; a barcode without a token is zero."""
    model = tiny_model(pooling)
    result = embed(model, tokenizer, dataset, batch_size=batch_size, shard_size=shard_size)
    expected = by_hand(model, tokenizer, dataset["dna_barcode"])
    expected[[3, 8]] = 0
    np.testing.assert_allclose(result.embeddings, expected, atol=1e-5)
    assert result.embeddings.dtype == np.float32
    assert result.processids == dataset["processid"][:]
    assert np.flatnonzero(~result.valid).tolist() == [3, 8]
    assert np.ptp(expected) > 0.1, "all alike: this test would prove nothing"


def test_equal_barcodes_are_computed_once(dataset, tmp_path):
    """Within a shard and across shards, in memory and on disk; each row still gets its own, in order."""
    order = [5, 5, 3, 60, 5, 3, 1, 60, 2, 5]
    chosen = dataset.select(order)
    expected = embed(Counting(), letters, dataset).embeddings[order]
    for options in ({}, {"shard_size": 3}, {"shard_size": 3, "output": tmp_path}, {"batch_size": 1}):
        model = Counting()
        result = embed(model, letters, chosen, **options)
        assert model.rows == 5, options
        np.testing.assert_array_equal(result.embeddings, expected)
        assert result.processids == [f"P{i:03d}" for i in order]


def test_memory_of_earlier_barcodes_is_bounded(dataset, monkeypatch):
    """Two vectors of 8 bytes fit into 16: the row four shards back is computed anew, the last one is not."""
    monkeypatch.setattr(embedding_batches, "REMEMBERED_BYTES", 16)
    model = Counting()
    embed(model, letters, dataset.select([0, 1, 2, 4, 4, 0]), shard_size=1)
    assert model.rows == 5
    known: embedding_batches.Known = {}
    with embedding_batches.inference(model):
        embedding_batches.embed_barcodes(model, letters, dataset["dna_barcode"][:40], known=known)
    assert len(known) == 2 and all(vector.base is None for vector, _ in known.values())


def test_a_mask_that_hides_nothing_is_left_out(dataset, tokenizer):
    """Of one length: no mask reaches the model, for which that is the quicker way; of several: it does."""
    one_length = [row[:32] for row in barcodes() if len(row) >= 32]
    alike = Dataset.from_dict({"processid": list(map(str, range(len(one_length)))), "dna_barcode": one_length})
    for rows, pooling, masked in ((alike, "masked_mean", {False}), (dataset, "masked_mean", {True, False})):
        model, seen = tiny_model(pooling), set()
        model.register_forward_pre_hook(
            lambda _, args, inputs, seen=seen: seen.add("attention_mask" in inputs), with_kwargs=True
        )
        result = embed(model, tokenizer, rows, batch_size=8)
        assert seen == masked
        expected = by_hand(model, tokenizer, rows["dna_barcode"])
        np.testing.assert_allclose(result.embeddings[result.valid], expected[result.valid], atol=1e-5)


def test_dtype(dataset, tokenizer, tmp_path):
    """bfloat16 is near to float32 and not it; on a CPU "auto" is float32; a folder holds one precision alone."""
    model = tiny_model()
    single, half, auto = (embed(model, tokenizer, dataset, dtype=dtype) for dtype in ("float32", "bfloat16", "auto"))
    np.testing.assert_array_equal(auto.embeddings, single.embeddings)
    difference = np.abs(half.embeddings - single.embeddings).max()
    assert 0 < difference < 0.05 and half.embeddings.dtype == np.float32
    embed(model, tokenizer, dataset, output=tmp_path, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"What differs: precision \(bfloat16 there, float32 now\)"):
        embed(model, tokenizer, dataset, output=tmp_path)
    with pytest.raises(ValueError, match="dtype='half' is unknown. There are auto, float32, bfloat16"):
        embed(model, tokenizer, dataset, dtype="half")


@pytest.mark.slow
def test_the_computing_part_needs_no_datasets(tmp_path):
    """Where only torch, transformers, numpy and pyarrow are installed, `embed_barcodes` still runs."""
    code = (
        "import sys; sys.modules['datasets'] = sys.modules['accelerate'] = None\n"
        "from bioscan_hf.encoders.batches import embed_barcodes\n"
        "from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_padding_is_cut_off_only_where_the_pooling_allows_it(dataset, tokenizer):
    """The unmasked mean also averages padding, so its batches must keep all 16 tokens."""
    widths = {}
    for pooling in ("masked_mean", "mean"):
        model, widths[pooling] = tiny_model(pooling), set()
        model.register_forward_pre_hook(
            lambda _, args, inputs, seen=widths[pooling]: seen.add(inputs["input_ids"].shape[1]), with_kwargs=True
        )
        embed(model, tokenizer, dataset, batch_size=4)
    assert widths["mean"] == {16}
    assert max(widths["masked_mean"]) <= 15 and len(widths["masked_mean"]) > 3


def test_reference_pooling(reference):
    """The published encoder's masked mean of barcodes in their one spelling; NaN there is a flagged zero row here."""
    folder = reference / "barcodebert"
    checkpoint = torch.load(folder / "tiny_k4.pt", weights_only=True)
    sequences = reference.json("tokenizer_cases.json")["sequences"]
    reference = np.load(folder / "forward_k4.npz")
    shape = {
        key: checkpoint["bert_config"][key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    }
    size = {key: checkpoint["bert_config"][key] for key in ("intermediate_size", "max_position_embeddings")}
    model = BarcodeBertModel(BarcodeBertConfig(k=4, **shape, **size))
    weights = {key.removeprefix("bert."): x for key, x in checkpoint["state_dict"].items() if key.startswith("bert.")}
    model.load_state_dict(weights)
    everything = reference["names"].tolist()
    names = [name for name in everything if spell(sequences[name]) == (sequences[name] or None)]
    assert 10 <= len(names) < len(everything)
    rows = Dataset.from_dict({"processid": names, "dna_barcode": [sequences[name] for name in names]})
    result = embed(model, KmerTokenizer(k=4), rows, batch_size=4)
    expected = reference["pooled_upstream"][[everything.index(name) for name in names]]
    assert (result.valid == np.isfinite(expected).all(axis=1)).all() and not result.valid.all()
    np.testing.assert_allclose(result.embeddings[result.valid], expected[result.valid], atol=5e-6)
    assert (result.embeddings[~result.valid] == 0).all()


def test_leading_token_makes_no_barcode_valid(dataset):
    """CLIBD's vocabulary puts one attended token before every barcode, even an empty one."""
    model = BarcodeBertModel(
        BarcodeBertConfig(k=4, vocabulary="clibd", hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    result = embed(model, KmerTokenizer(k=4, vocabulary="clibd"), dataset)
    assert np.flatnonzero(~result.valid).tolist() == [3, 8]


def test_tokenizer_of_transformers(dataset, tokenizer):
    """The same ids through an ordinary fast tokenizer, called on a list, and through a partial with options."""
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token=tokenizer.pad_token, model_max_length=16
    )
    model = tiny_model()
    expected = embed(model, tokenizer, dataset).embeddings
    padded = partial(plain, padding="max_length", truncation=True, return_tensors="pt")
    padded = partial(lambda call, rows: {k: v for k, v in call(rows).items() if k != "token_type_ids"}, padded)
    result = embed(model, padded, dataset, batch_size=7)
    np.testing.assert_allclose(result.embeddings, expected, atol=1e-5)
    with pytest.raises(ValueError, match="[Uu]nable to create tensor"):
        embed(model, plain, dataset)  # without padding its rows differ in length: transformers says what to do


@pytest.mark.parametrize("on_disk", [False, True])
def test_kmer_counts_are_embeddings(dataset, tmp_path, on_disk):
    model, processor = kmer_encoder(3)
    result = embed(model, processor, dataset, batch_size=9, output=tmp_path / "out" if on_disk else None)
    expected = kmer_counts(dataset["dna_barcode"], 3, normalize=True)
    np.testing.assert_allclose(result.embeddings, expected, atol=1e-6)
    assert np.flatnonzero(~result.valid).tolist() == [8]


def test_arrow_table_and_rearranged_dataset(dataset):
    """What counts is the order of the dataset as it is: shuffled, selected, formatted, or an Arrow table."""
    order = [20, 4, 66, 5]
    expected = embed(*kmer_encoder(2), dataset).embeddings[order]
    chosen = dataset.select(order)
    table = pa.table({"processid": chosen["processid"][:], "dna_barcode": chosen["dna_barcode"][:], "other": order})
    for source in (chosen, chosen.with_format("torch"), table):
        result = embed(*kmer_encoder(2), source, shard_size=3)
        np.testing.assert_array_equal(result.embeddings, expected)
        assert result.processids == ["P020", "P004", "P066", "P005"]


def test_another_column(dataset):
    renamed = dataset.rename_column("dna_barcode", "nucleotides")
    result = embed(*kmer_encoder(2), renamed, column="nucleotides")
    np.testing.assert_array_equal(result.embeddings, embed(*kmer_encoder(2), dataset).embeddings)


def test_training_flags_come_back(dataset, tokenizer):
    """A frozen part in evaluation mode inside a model in training must stay so; and dropout must be off meanwhile."""
    model = tiny_model().train()
    model.embeddings.eval()
    before = [module.training for module in model.modules()]
    one, two = (embed(model, tokenizer, dataset).embeddings for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert [module.training for module in model.modules()] == before
    assert any(before) and not all(before)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_folder(dataset, tmp_path):
    """Files that anyone can read: their names, schema and rows, and the manifest."""
    model = Counting()
    result = embed(model, letters, dataset, output=tmp_path, shard_size=30)
    names = [f"embeddings-0000{i}-of-00003.parquet" for i in range(3)]
    visible = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))  # a lock is hidden
    assert visible == [*names, "manifest.json"]
    tables = [pq.read_table(tmp_path / name) for name in names]
    assert [len(table) for table in tables] == [30, 30, 10]
    assert tables[0].schema.field("embedding").type == pa.list_(pa.field("element", pa.float32()), 2)
    assert tables[0].schema.field("processid").type == pa.string()
    assert tables[0].schema.field("valid").type == pa.bool_()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["rows"], manifest["dim"], manifest["shard_size"]) == (70, 2, 30)
    assert manifest["model"] == model_fingerprint(model) and len(manifest["model"]) == 64
    assert {"torch", "transformers", "bioscan_hf"} <= set(manifest["versions"])
    in_memory = embed(model, letters, dataset)
    for again in (result, load_embeddings(tmp_path)):
        np.testing.assert_array_equal(again.embeddings, in_memory.embeddings)
        np.testing.assert_array_equal(again.valid, in_memory.valid)
        assert again.processids == in_memory.processids


def test_resume_computes_what_is_missing_and_nothing_else(dataset, tmp_path):
    model = Counting()
    whole = embed(model, letters, dataset, output=tmp_path, shard_size=10)
    assert model.rows == 70
    embed(model, letters, dataset, output=tmp_path, shard_size=10)
    assert model.rows == 70, "all shards were there"
    one, two, three = (tmp_path / f"embeddings-0000{i}-of-00007.parquet" for i in (1, 4, 6))
    one.unlink()
    two.write_bytes(two.read_bytes()[:-100])  # cut short, as by a full disk
    three.write_bytes((tmp_path / "embeddings-00000-of-00007.parquet").read_bytes())  # rows of another shard
    with pytest.raises(ValueError, match="has not all of its 7 shards; missing: embeddings-00001-of-00007.parquet"):
        load_embeddings(tmp_path)
    again = embed(model, letters, dataset, output=tmp_path, shard_size=10)
    assert model.rows == 70 + 30
    np.testing.assert_array_equal(again.embeddings, whole.embeddings)
    assert again.processids == whole.processids


def test_run_that_fails_half_way_is_resumed(dataset, tmp_path):
    """The model breaks in the third shard; what was done is kept, and nothing half written is taken for whole."""

    def failing(rows):
        if dataset["dna_barcode"][25] in rows and (tmp_path / "embeddings-00001-of-00007.parquet").exists():
            raise OSError("power cut")
        return letters(rows)

    model = Counting()
    with pytest.raises(OSError, match="power cut"):
        embed(model, failing, dataset, output=tmp_path, shard_size=10)
    done = model.rows
    assert done == 20
    embed(model, letters, dataset, output=tmp_path, shard_size=10)
    assert model.rows == 70


@pytest.mark.parametrize("change", ["weights", "barcodes", "order", "processor", "shard_size"])
def test_folder_of_something_else_is_refused(dataset, tmp_path, change):
    """Each would mix vectors of two runs without a word."""
    model, processor, options = Counting(), letters, {"shard_size": 10}
    embed(model, processor, dataset, output=tmp_path, **options)
    named = {"weights": "model", "barcodes": "dataset", "order": "dataset"}.get(change, change)
    if change == "weights":
        model.scale.data[1] = 3.0
    elif change == "barcodes":
        rows = barcodes()
        rows[69] = rows[69][:-1]
        dataset = Dataset.from_dict({"processid": dataset["processid"][:], "dna_barcode": rows})
    elif change == "order":
        dataset = dataset.select([*range(68), 69, 68])
    elif change == "processor":

        def processor(rows):
            return {"codes": letters(rows)["codes"][:, :7]}
    else:
        options["shard_size"] = 20
    values = r" \(10 there, 20 now\)" if change == "shard_size" else ""  # a hash tells nobody anything
    told = rf"holds other embeddings. What differs: {named}{values}[.;] .*replace them.*--force"
    with pytest.raises(ValueError, match=told):
        embed(model, processor, dataset, output=tmp_path, **options)
    (tmp_path / "embeddings.txt").write_text("mine")
    found = embed(model, processor, dataset, output=tmp_path, force=True, **options)
    assert (found.embeddings == embed(model, processor, dataset, **options).embeddings).all()
    assert len(list(tmp_path.glob("*.parquet"))) == -(-70 // options["shard_size"])
    assert (tmp_path / "embeddings.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "manifest.json' has no field 'rows'"),
        ('{"rows": "9", "shard_size": 4}', r"'rows' in .*manifest.json' is '9' \(str\)"),
        ('{"rows": 9, "shard_size": 0}', "'rows' and 'shard_size' in .* have to be 1 or more"),
        ("nothing", "manifest.json' cannot be read as JSON"),
    ],
)
@pytest.mark.parametrize("load", [load_embeddings, load_specimens])
def test_a_manifest_that_is_wrong_is_refused_by_name(tmp_path, content, message, load):
    """Of embeddings of one modality, and of those of all modalities of specimens."""
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_fingerprint_survives_saving_and_sees_the_pooling(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert model_fingerprint(BarcodeBertModel.from_pretrained(tmp_path)) == model_fingerprint(model)
    assert model_fingerprint(tiny_model("mean")) != model_fingerprint(model)
    assert model_fingerprint(tiny_model(seed=1)) != model_fingerprint(model)
    assert model_fingerprint(model.to(torch.bfloat16)) != model_fingerprint(tiny_model())


def test_nan_is_refused_by_processid(dataset, tmp_path):
    class Broken(Counting):
        def forward(self, codes):
            output = super().forward(codes)
            output.pooler_output[codes[:, 0] == ord("A")] = torch.nan
            return output

    first = next(i for i, row in enumerate(barcodes()) if row.startswith("A"))
    with pytest.raises(ValueError, match=rf"^P{first:03d}, .* and \d+ more: the model gives NaN"):
        embed(Broken(), letters, dataset, output=tmp_path)
    assert not list(tmp_path.glob("*.parquet")), "NaN reached the disk"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.remove_columns("dna_barcode"), ValueError, "no column 'dna_barcode'; it has processid"),
        (lambda d: d.remove_columns("processid"), ValueError, "no column 'processid'; it has dna_barcode"),
        (lambda d: d.select([]), ValueError, "The dataset is empty"),
        (lambda d: d.to_iterable_dataset(), TypeError, "got IterableDataset. .* without streaming"),
        (
            lambda d: d.map(lambda row: {"dna_barcode": row["dna_barcode"] or None}),
            ValueError,
            "^1 of 70 rows has no value of 'dna_barcode': P008. Leave",
        ),
    ],
)
def test_bad_dataset_is_refused(dataset, change, error, message):
    changed = change(dataset)
    assert isinstance(changed, (Dataset, IterableDataset))
    with pytest.raises(error, match=message):
        embed(Counting(), letters, changed)


def test_bad_options_are_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="1 row or more; got 0 and 8192"):
        embed(Counting(), letters, dataset, batch_size=0)
    with pytest.raises(FileNotFoundError, match="has no manifest.json"):
        load_embeddings(tmp_path)


def test_model_and_processor_that_break_the_contract_are_refused(dataset, tokenizer):
    """A BertModel without pooler gives None; a processor of one row for many gives a 1-D tensor."""
    config = BertConfig(vocab_size=258, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ValueError, match="BertModel gave the pooler_output None for 70 barcodes"):
        embed(BertModel(config, add_pooling_layer=False), tokenizer, dataset)
    with pytest.raises(ValueError, match=r"The processor gave codes of shape \(8,\) for 70 barcodes"):
        embed(Counting(), lambda rows: {"codes": letters(rows)["codes"][0]}, dataset)


TWO_PROCESSES = """
import sys
from pathlib import Path
import numpy as np
from datasets import Dataset
from accelerate import PartialState
from bioscan_hf.encoders import embed as module
from bioscan_hf.encoders.embed import embed
from bioscan_hf.encoders.kmers import kmer_encoder

dataset = Dataset.from_file(sys.argv[1])
try:
    embed(*kmer_encoder(3), dataset)
except ValueError as error:
    assert "2 processes" in str(error), error
state = PartialState(cpu=True)
assert state.num_processes == 2
computed = []
compute = module._Encoding.compute
module._Encoding.compute = lambda self, shard, progress: computed.append(shard) or compute(self, shard, progress)
output = Path(sys.argv[2])
for missing in (range(7), (0, 2, 4)):  # what is missing is shared, not only what the process would have computed
    state.wait_for_everyone()  # the other has read what is deleted now
    if computed and state.is_main_process:
        for shard in missing:
            (output / f"embeddings-0000{shard}-of-00007.parquet").unlink()
    computed.clear()
    state.wait_for_everyone()
    result = embed(*kmer_encoder(3), dataset, output=output, shard_size=10)
    assert computed == list(missing)[state.process_index :: 2], computed
    assert "embeddings" not in vars(result), "the vectors have been read"
np.save(f"{sys.argv[3]}/{state.process_index}.npy", result.embeddings)
state.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_return_the_whole(dataset, tmp_path):
    """Seven shards: four for one process, three for the other; both return all rows in order."""
    arrow, output, script = tmp_path / "data.arrow", tmp_path / "out", tmp_path / "script.py"
    with pa.OSFile(str(arrow), "wb") as file, pa.ipc.new_stream(file, dataset.data.schema) as writer:
        writer.write_table(dataset.data.table)
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "yes", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, arrow, output, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = embed(*kmer_encoder(3), dataset).embeddings
    for process in (0, 1):
        np.testing.assert_array_equal(np.load(tmp_path / f"{process}.npy"), expected)


def test_each_process_uses_its_own_device(dataset, monkeypatch, tmp_path):
    """A model that the program put on the first GPU moves to the device of the process; "meta" stands for a GPU."""
    state = PartialState()
    monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("meta"))
    model = Counting()
    monkeypatch.setattr(embedding_module, "_embed_to", lambda folder, encoding, *_: encoding.model.scale.device)
    assert embed(model, letters, dataset, output=tmp_path) == state.device


def test_rows_without_a_barcode_are_counted_or_left_out(dataset, tmp_path):
    """All of them are counted, also those of later shards; the others have the vectors that they had."""
    everyone = embed(tiny_model(), KmerTokenizer(k=4, max_nucleotides=64), dataset, column="dna_barcode")
    gone = [0, 8, 20, 21, 40, 60, 69]  # 8 is ""
    rows = [None if i in gone and i != 8 else barcode for i, barcode in enumerate(dataset["dna_barcode"])]
    holes = Dataset.from_dict({"processid": dataset["processid"], "dna_barcode": rows})
    how = {"shard_size": 16, "output": tmp_path / "x"}
    told = r"^6 of 70 rows have no value of 'dna_barcode': P000 and 5 more\. Leave them out by --missing drop"
    with pytest.raises(ValueError, match=told):
        embed(tiny_model(), KmerTokenizer(k=4, max_nucleotides=64), holes, **how)
    for table in (holes, holes.with_format("arrow")[:]):
        found = embed(
            tiny_model(), KmerTokenizer(k=4, max_nucleotides=64), table, missing="drop", keep=["dna_barcode"], **how
        )
        left = [i for i in range(70) if i not in gone]
        assert found.processids == [dataset["processid"][i] for i in left]
        np.testing.assert_allclose(found.embeddings, everyone.embeddings[left], atol=1e-5)
        assert found.columns["dna_barcode"] == [rows[i] for i in left]
    nothing = Dataset.from_dict({"processid": ["a", "b"], "dna_barcode": [None, ""]})
    with pytest.raises(ValueError, match="No row has a value of 'dna_barcode'"):
        embed(tiny_model(), KmerTokenizer(k=4, max_nucleotides=64), nothing, missing="drop")

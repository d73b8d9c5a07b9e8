"""The evaluation of CLIBD as a program: embeddings on disk, tables, pictures, baseline, index; what is refused."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from training_runs import as_flags, launch, results_of, start
from transformers import PreTrainedTokenizerFast

from bioscan_hf.cli.main import main as bioscan_hf
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.clibd import embed_clibd
from bioscan_hf.encoders.embed import embed
from bioscan_hf.evaluation.retrieval import retrieval_accuracy
from bioscan_hf.evaluation.retrieval_protocol import REPORTED_RANKS, Specimens
from bioscan_hf.evaluation.specimens import embedded_specimens, joined, load_specimens
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor, photos_on_device
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.schema import LABEL_COLUMNS, RANKS
from bioscan_hf.search.index import load_index
from bioscan_hf.trainers.evaluate_clibd import main
from bioscan_hf.training.clibd.batches import ClibdCollator

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
PHOTO = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
SPLITS = ("train", "key_unseen", "test", "test_unseen")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model of three modalities with random weights, and its processor."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clibd") / "model"
    config = ClibdConfig(
        image_config={"architecture": "vit_base_patch16_224", "model_args": PHOTO},
        dna_config={**SIZES, "k": 4, "max_nucleotides": 120},
        text_config={**SIZES, "vocab_size": 64, "max_position_embeddings": 128},
        projection_dim=16,
    )
    ClibdModel(config).save_pretrained(folder)
    letters = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR"]
    backend = Tokenizer(WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Split("", "isolated")
    text = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    ClibdProcessor(make_image_processor(32), KmerTokenizer(k=4, max_nucleotides=120), text).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(model, dataset, tmp_path_factory):
    """Output of an evaluation of all combinations with pictures and an index, beside the model itself as baseline."""
    output = tmp_path_factory.mktemp("evaluated") / "out"
    arguments = ["--model", model, "--source", dataset, "--output_dir", output, "--plots", "True", "--ranks", "order"]
    arguments += ["genus", "species", "--save_index", "dna", "--baseline", model, "--batch_size", "32"]
    main([str(argument) for argument in arguments])
    return output


@pytest.mark.slow
def test_results_hold_every_combination_and_chance(run):
    """21 tables of both models; chance in each; the sizes are those of the splits."""
    results = json.loads((run / "results.json").read_text())
    assert results["task"] == "clibd/retrieval" and set(results["splits"]) == set(SPLITS)
    for about in (results["metrics"]["model"], results["metrics"]["baseline"]):
        assert len(about["tables"]) == 21
        table = about["tables"]["image->dna"]
        assert table["keys"] == results["splits"]["train"] + results["splits"]["key_unseen"]
        for part, split in (("seen", "test"), ("unseen", "test_unseen")):
            assert table[part]["queries"] == results["splits"][split]
            assert set(table[part]["macro"]) == {"1", "3", "5"} == set(table[part]["chance"]["micro"])
            assert (
                0 < table[part]["chance"]["macro"]["1"]["species"] < table[part]["chance"]["macro"]["1"]["order"] < 1
            )
        assert set(table["harmonic_mean"]["macro"]["1"]) == {"order", "genus", "species"}
    assert results["metrics"]["model"]["tables"] == results["metrics"]["baseline"]["tables"]
    assert results["metrics"]["model"]["absent"]["test"] == {"image": 0, "dna": 0, "text": 0}


def test_numbers_are_those_of_the_embeddings_on_disk(run):
    """The table equals `retrieval_accuracy` of what lies in the folder: keys of both kinds of species together."""
    keys = joined([load_specimens(run / "embeddings" / split) for split in SPLITS[:2]])
    queries = load_specimens(run / "embeddings/test_unseen")
    labels = ({rank: x.labels[rank] for rank in ("order", "genus", "species")} for x in (keys, queries))
    key_labels, query_labels = labels
    expected = retrieval_accuracy(keys.embeddings["dna"], key_labels, queries.embeddings["image"], query_labels)
    table = json.loads((run / "results.json").read_text())["metrics"]["model"]["tables"]["image->dna"]["unseen"]
    for average in ("micro", "macro"):
        for k in (1, 3, 5):
            assert table[average][str(k)] == expected[average][k]


def test_tables_pictures_and_index(run):
    """Markdown with both models and chance; four pictures; an index that answers with names."""
    text = (run / "tables.md").read_text()
    for line in ("| image->dna | model | ", "| image->dna | baseline | ", "| image->dna | chance | "):
        assert text.count(line) == 2  # macro and micro
    assert "text->text" not in text and "2,0" not in text.splitlines()[0]
    for name in ("gallery", "confusion", "keys", "bars"):
        content = (run / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000
    index = load_index(run / "index")
    assert set(index.ids) == {i for split in SPLITS[:2] for i in load_specimens(run / "embeddings" / split).ids}
    assert len(index.vectors) < len(index)  # specimens share barcodes


def test_evaluation_of_embeddings_on_disk(run, tmp_path):
    """Another rule, rank and prototypes over the same embeddings, without model and data."""
    arguments = ["--embeddings", run / "embeddings", "--output_dir", tmp_path, "--ties", "parity", "--ranks", "family"]
    arguments += ["--combinations", "image->dna", "dna->dna", "--prototypes", "species", "--top_k", "1", "--plots"]
    results = main([*map(str, arguments), "True"])
    tables = results["metrics"]["model"]["tables"]
    assert list(tables) == ["image->dna", "dna->dna"] and results["options"]["ties"] == "parity"
    assert tables["dna->dna"]["keys"] < 100 and (tmp_path / "keys.png").exists()
    assert not (tmp_path / "gallery.png").exists()  # there is no source to take photos from
    with pytest.raises(FileExistsError, match="has results"):
        main([str(argument) for argument in arguments[:4]])


def test_the_command_needs_no_checkout(run, tmp_path, capsys, monkeypatch):
    """`bioscan-hf evaluate clibd`: its page, tables and JSON, and errors of one line; wrong options load no torch."""
    monkeypatch.chdir(tmp_path)
    command("--help")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Usage: bioscan-hf evaluate clibd [OPTIONS.yaml] --output_dir OUTPUT_DIR [OPTIONS]"
    assert lines[3].startswith("  bioscan-hf evaluate clibd --model ") and "--resume" not in "".join(lines)
    assert {"--model", "--key_splits", "--json"} <= {line.split()[0] for line in lines if line.startswith("  --")}
    given = ("--embeddings", str(run / "embeddings"), "--combinations", "image->dna", "--top_k", "1")
    command(*given, "--output_dir", "a")
    out = capsys.readouterr().out
    assert re.search("image->dna +species +chance +[0-9.]+ +[0-9.]+\n", out) and "\nMicro top-1 accuracy (%)\n" in out
    assert "\nWrote a\nNext: bioscan-hf evaluate clibd --table" in out and max(map(len, out.splitlines())) <= 80
    command(*given, "--output_dir", "b", "--json")
    assert json.loads(capsys.readouterr().out)["metrics"] == results_of(tmp_path / "a")["metrics"]
    wrong = (("--embedings", "x"), "Did you mean --embeddings?"), (("--embeddings", "x"), "Give --output_dir")
    for words, message in (*wrong, ((*given, "--output_dir", "a"), "'a' has results")):
        with pytest.raises(SystemExit):
            command(*words)
        out, error = capsys.readouterr()
        assert out == "" and error.startswith("bioscan-hf evaluate clibd: ") and message in error
        assert len(error.splitlines()) == 1
    code = "import sys; from bioscan_hf.cli.main import main\ntry: main(['evaluate', 'clibd', '--x'])\nfinally: "
    done = start(["-c", code + "print([name for name in ('torch', 'numpy') if name in sys.modules])"])
    assert done.stdout == "[]\n" and "Unknown option --x" in done.stderr


def command(*words):
    bioscan_hf(["evaluate", "clibd", *words])


def test_queries_without_names_have_no_accuracy(run, tmp_path):
    """No query of unseen species has a name: their accuracies are null; the rest is measured, written and drawn."""
    shutil.copytree(run / "embeddings", tmp_path / "e")
    for path in (tmp_path / "e/test_unseen").rglob("embeddings-*.parquet"):
        table = pq.read_table(path)
        for rank in LABEL_COLUMNS:
            table = table.set_column(table.column_names.index(rank), rank, pa.nulls(len(table), pa.string()))
        pq.write_table(table, path)
    arguments = ["--embeddings", tmp_path / "e", "--output_dir", tmp_path / "out", "--plots", "True"]
    table = main([str(argument) for argument in arguments])["metrics"]["model"]["tables"]["image->dna"]
    nothing = dict.fromkeys(REPORTED_RANKS)
    for average in ("micro", "macro"):
        assert table["unseen"][average][1] == table["harmonic_mean"][average][1] == nothing
        assert table["unseen"]["chance"][average][1] == nothing and table["seen"][average][1]["order"] > 0
    assert " / - / - |" in (tmp_path / "out/tables.md").read_text() and (tmp_path / "out/confusion.png").exists()


def embed_and_load(*arguments, **options):
    embed_clibd(*arguments, **options)
    return load_specimens(arguments[3])


def test_embedding_goes_on(model, dataset, tmp_path):
    """A shard that is lost is made again, and others are left alone; other embeddings are not mixed with these."""
    network, processor = ClibdModel.from_pretrained(model).eval(), ClibdProcessor.from_pretrained(model)
    collate = ClibdCollator(processor, mode="eval")
    data = load_bioscan5m(dataset, "cropped_256", "train", max_nucleotides=None)
    options = {"shard_size": 16, "batch_size": 8}
    one = embed_and_load(network, processor, data, tmp_path / "one", **options)
    assert one.ids == data["processid"] and one.labels["order"] == data["order"]
    batch = collate([data[3]])
    with torch.no_grad():
        photos = photos_on_device(batch, processor.image_processor)
        expected = {
            "image": network.get_image_features(photos),
            "dna": network.get_dna_features(batch["dna_input_ids"], batch["dna_attention_mask"]),
            "text": network.get_text_features(batch["text_input_ids"], batch["text_attention_mask"]),
        }
    for name, vectors in expected.items():
        np.testing.assert_allclose(one.embeddings[name][3], vectors[0], atol=1e-5)
    shards = sorted((tmp_path / "one/dna").glob("embeddings-*.parquet"))
    assert len(shards) == -(-len(data) // 16) > 1
    times = [path.stat().st_mtime_ns for path in shards]
    shards[1].unlink()
    with pytest.raises(ValueError, match="missing: embeddings-00001-of-"):
        load_specimens(tmp_path / "one")
    again = embed_and_load(network, processor, data, tmp_path / "one", **options)
    # A barcode or text that occurred before is not embedded again, so it is in another batch now: other roundings.
    for name, vectors in one.embeddings.items():
        np.testing.assert_allclose(again.embeddings[name], vectors, rtol=0, atol=0 if name == "image" else 1e-6)
    assert shards[0].stat().st_mtime_ns == times[0] and shards[1].stat().st_mtime_ns > times[1]
    with pytest.raises(ValueError, match="other embeddings. What differs: shard_size"):
        embed_clibd(network, processor, data, tmp_path / "one", batch_size=8)
    with torch.no_grad():
        network.dna_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=f"{data[0]['processid']}, .* the model gives NaN .* of 'dna_barcode'"):
        embed_clibd(network, processor, data, tmp_path / "nan", **options)


def test_rows_without_a_photo_are_absent(model, dataset, tmp_path):
    """A dataset without some photos, a barcode and a taxonomy: no row is lost, and what is missing is marked.

    The last shard has no photo at all."""
    network, processor = ClibdModel.from_pretrained(model), ClibdProcessor.from_pretrained(model)
    data = load_bioscan5m(dataset, "cropped_256", "test", max_nucleotides=None).select(range(6))
    rows = [dict(row) for row in data]
    features = data.features
    rows[2]["image"] = rows[4]["image"] = rows[5]["image"] = None
    rows[5]["dna_barcode"] = ""
    rows[0] |= dict.fromkeys(RANKS)
    broken = type(data).from_list(rows, features=features)
    found = embed_and_load(network, processor, broken, tmp_path / "e", shard_size=4)
    assert found.present["image"].tolist() == [True, True, False, True, False, False]
    assert found.present["dna"].tolist() == [True] * 5 + [False]
    assert found.present["text"].tolist() == [False] + [True] * 5
    assert len(found.ids) == 6 and not found.embeddings["image"][2].any() and found.embeddings["image"][3].any()


@pytest.mark.slow
def test_two_processes_write_the_same(model, dataset, run, tmp_path):
    """Launched as two processes on a CPU: each computes its shards, one writes the results."""
    options = {"model": model, "source": dataset, "output_dir": tmp_path, "batch_size": 32}
    launch("evaluate_clibd", as_flags(options | {"ranks": ["order", "genus", "species"]}))
    ours, theirs = (results_of(folder)["metrics"] for folder in (run, tmp_path))
    assert theirs["model"]["tables"] == ours["model"]["tables"]


def test_barcodes_that_the_command_embedded(dataset, tmp_path):
    """What `embed` wrote of any DNA encoder gets the labels of its source, by processid."""
    data = load_bioscan5m(dataset, "dna", "train")

    class Counts(torch.nn.Module):
        def forward(self, counts):
            return type("Output", (), {"pooler_output": counts})()

    def processor(barcodes):
        return {"counts": torch.tensor([[float(b.count(x)) for x in "ACGT"] for b in barcodes])}

    embed(Counts(), processor, data.select(range(20)), output=tmp_path / "e")
    found = embedded_specimens(tmp_path / "e", dataset, "train")
    assert isinstance(found, Specimens) and found.ids == data["processid"][:20]
    assert found.labels["family"] == data["family"][:20] and found.embeddings["dna"].shape == (20, 4)
    with pytest.raises(ValueError, match="19 more are not in the split 'pretrain'"):
        embedded_specimens(tmp_path / "e", dataset, "pretrain")


def test_impossible_options_are_refused(model, dataset, tmp_path):
    """Options are checked before anything is computed."""

    def attempt(*arguments):
        main(["--output_dir", str(tmp_path), *map(str, arguments)])

    with pytest.raises(ValueError, match="either --model and --source, or --embeddings, or --table"):
        attempt("--source", dataset)
    with pytest.raises(ValueError, match="--model needs --source"):
        attempt("--model", model)
    with pytest.raises(ValueError, match="evaluate is 'train'. Choose one of val, test"):
        attempt("--embeddings", tmp_path, "--evaluate", "train")
    with pytest.raises(ValueError, match="Unknown rank: tribe"):
        attempt("--embeddings", tmp_path, "--ranks", "tribe")
    with pytest.raises(ValueError, match="Unknown split 'trian'"):
        attempt("--embeddings", tmp_path, "--key_splits", "trian")
    for name, value in (("ties", "luck"), ("index", "tree"), ("dtype", "int8"), ("prototypes", "tribe")):
        with pytest.raises(ValueError, match=f"{name} is '{value}'. Choose one of "):
            attempt("--embeddings", tmp_path, f"--{name}", value)
    with pytest.raises(ValueError, match="save_index is 'smell'. Choose one of image, dna, text, averaged"):
        attempt("--embeddings", tmp_path, "--save_index", "smell")
    with pytest.raises(ValueError, match="combinations is 'dna->smell'. Choose one of image->image"):
        attempt("--embeddings", tmp_path, "--combinations", "dna->smell")
    with pytest.raises(FileNotFoundError, match="has no manifest.json"):
        attempt("--embeddings", tmp_path)
    with pytest.raises(FileNotFoundError, match="absent' is neither an existing folder nor a Hub id"):
        attempt("--model", tmp_path / "absent", "--source", dataset)
    assert not list(tmp_path.iterdir())
    (tmp_path / "index").mkdir()
    (tmp_path / "index/index.json").write_text("{}")
    with pytest.raises(FileExistsError, match="index' holds an index"):
        attempt("--embeddings", tmp_path, "--save_index", "dna")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a model of type 'bert'. Give a CLIBD model"):
        attempt("--model", tmp_path, "--source", dataset)

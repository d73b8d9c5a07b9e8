"""The pipelines: answers, inputs of every kind, and refused inputs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny import TREE, tiny_bert, tiny_clibd
from transformers import PreTrainedTokenizerFast, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.encoders.embed import embed
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.modeling_barcodebert import (
    BarcodeBertForMaskedLM,
    BarcodeBertForSequenceClassification,
    BarcodeBertModel,
)
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.taxon_classifier import predict_taxa, taxa_probabilities
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.search.index import build_index, save_index

BARCODES = ["ACGTACGTTACGACGTACGTTACG", "ACGTTTGA", "TTGACN", "GATTACAGATTACA", "CC"]


def draw(count, length, seed=0):
    letters = np.random.default_rng(seed).choice(list("ACGT"), (count, length))
    return ["".join(row) for row in letters]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Kind of model -> (model, folder with its tokenizer)."""
    names = {0: "Diptera", 1: "Araneae", 2: "Coleoptera"}
    one = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    found = {}
    for kind, cls, options in (
        ("one", BarcodeBertForSequenceClassification, one),
        ("several", BarcodeBertForSequenceClassification, TREE),
        ("mean", BarcodeBertModel, {"pooling": "mean"}),
        ("masked lm", BarcodeBertForMaskedLM, {}),
    ):
        model, folder = tiny_bert(cls, **options), tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        KmerTokenizer(k=2, max_nucleotides=24).save_pretrained(folder)
        found[kind] = (model, str(folder))
    return found


def logits_of(model, barcodes):
    ids, mask = KmerTokenizer(k=2, max_nucleotides=24).encode_column(barcodes)
    with torch.no_grad():
        return model(torch.from_numpy(ids), torch.from_numpy(mask)).logits


# ---- classification -------------------------------------------------------------------------------------------------


def test_one_rank(folders):
    """The softmax of the logits, most probable name first."""
    model, folder = folders["one"]
    pipe = pipeline("dna-classification", model=folder, device="cpu")
    expected = logits_of(model, BARCODES).softmax(1)
    for barcode, probabilities in zip(BARCODES, expected, strict=True):
        answer = pipe(barcode, top_k=None)
        assert [entry["label"] for entry in answer] == [
            model.config.id2label[int(i)] for i in probabilities.argsort(descending=True)
        ]
        assert [entry["score"] for entry in answer] == pytest.approx(sorted(probabilities.tolist(), reverse=True))
        assert pipe(barcode) == answer[:1] and pipe(barcode, top_k=2) == answer[:2]
        assert set(answer[0]) == {"label", "score"}


def test_several_ranks_are_consistent(folders):
    """The first label of a rank is on the predicted path; the others follow by probability."""
    model, folder = folders["several"]
    pipe = pipeline("dna-classification", model=folder, device="cpu")
    barcodes = draw(20, 24)
    logits = logits_of(model, barcodes)
    predicted = model.predict_taxa(logits)
    for row, answer in enumerate(pipe(barcodes, batch_size=7)):
        assert [entry["rank"] for entry in answer] == list(TREE["taxa"])
        for entry in answer:
            prediction = predicted[entry["rank"]]
            place = int(prediction.ids[row])
            assert entry["label"] == (TREE["taxa"][entry["rank"]][place] if place >= 0 else None)
            assert entry["score"] == pytest.approx(float(prediction.probabilities[row]), abs=1e-6)
    several = pipe(barcodes[0], top_k=3)
    assert [entry["rank"] for entry in several] == ["order"] * 2 + ["family"] * 3 + ["genus"] * 3
    for rank in TREE["taxa"]:
        entries = [entry for entry in several if entry["rank"] == rank]
        assert len({entry["label"] for entry in entries}) == len(entries)
        rest = [entry["score"] for entry in entries[1:]]
        assert rest == sorted(rest, reverse=True)


def test_none_of_the_classes():
    """A path that ends above a rank has the label None there, with the probability of none.

    Orders a and b of probability 0.9 and 0.1; the only family lies below b. Paths: a alone scores 0.9 x 1 (the
    family counts as its most probable), b and family 0.1 x 1. So a wins with 0.9, and no family has 0.9 too.
    """
    model = tiny_bert(
        BarcodeBertForSequenceClassification,
        taxa={"order": ["a", "b"], "family": ["c"]},
        parents={"family": [1]},
    )
    model.taxon_classifier.weight.data.zero_()
    model.taxon_classifier.bias.data = torch.tensor([0.9, 0.1, 1.0]).log()
    pipe = pipeline("dna-classification", model=model, tokenizer=KmerTokenizer(k=2, max_nucleotides=24), device="cpu")
    found = [(entry["rank"], entry["label"], round(entry["score"], 5)) for entry in pipe("ACGT", top_k=2)]
    assert found == [("order", "a", 0.9), ("order", "b", 0.1), ("family", None, 0.9), ("family", "c", 0.1)]


def test_probabilities_of_all_classes():
    """Predicted taxa have the probabilities of `predict_taxa`; classes below a taxon sum to its probability."""
    generator = torch.Generator().manual_seed(3)
    logits = [torch.randn(50, len(names), generator=generator) * 2 for names in TREE["taxa"].values()]
    parents = list(TREE["parents"].values())
    probabilities = taxa_probabilities(logits, parents)
    for prediction, of_rank in zip(predict_taxa(logits, parents), probabilities, strict=True):
        known = prediction.ids >= 0
        chosen = of_rank[known].gather(1, prediction.ids[known, None])[:, 0]
        torch.testing.assert_close(chosen, prediction.probabilities[known])
    torch.testing.assert_close(probabilities[1][:, :2].sum(1), probabilities[0][:, 0])  # families 0 and 1 of order 0


def test_every_container_and_batch_size_give_the_same_answers(folders):
    """A list, tuple, column, generator and `KeyDataset`. Options of a call override those of the constructor."""
    pipe = pipeline("dna-classification", model=folders["several"][1], device="cpu", top_k=2, clean="barcode")
    one_by_one = [pipe(barcode) for barcode in BARCODES]
    assert len(one_by_one[0]) == 6 and len(pipe(BARCODES[0], top_k=1)) == 3
    assert pipe("acguacgttacgacgtacgttacgNN") == one_by_one[0], "cleaned"
    dataset = Dataset.from_dict({"dna_barcode": BARCODES})
    for inputs in (BARCODES, tuple(BARCODES), dataset["dna_barcode"], (barcode for barcode in BARCODES)):
        again = list(pipe(inputs, batch_size=2))
        assert flat(again) == pytest.approx(flat(one_by_one), abs=1e-6)
    streamed = pipe(KeyDataset(dataset, "dna_barcode"), batch_size=3)
    assert not isinstance(streamed, list), "a dataset is answered row by row"
    assert flat(list(streamed)) == pytest.approx(flat(one_by_one), abs=1e-6)
    assert pipe([]) == []


def flat(answers):
    return [entry["score"] for answer in answers for entry in answer]


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        ("", {}, ValueError, "has 0 nucleotides; a token needs 2"),
        (["ACGT", "A"], {}, ValueError, "'A' has 1 nucleotides"),
        ("ACGTX", {}, ValueError, "contains 'X'"),
        ("ACGT?", {}, ValueError, r"contains '\?'. Allowed are A, C, G, T, U, N, the IUPAC codes and '-'"),
        ("ACGTX", {"clean": "barcode"}, ValueError, "contains 'X'"),
        ("NNNN", {"clean": "barcode"}, ValueError, "has 0 nucleotides"),
        (["ACGT", None], {}, TypeError, "NoneType was given"),
        ("ACGT", {"clean": "yes"}, ValueError, "give 'none' or 'barcode'"),
        ("ACGT", {"top_k": 0}, ValueError, "give 1 or more"),
        ("ACGT", {"topk": 3}, TypeError, "Unknown option 'topk'"),
    ],
)
def test_refused_barcodes_and_options(folders, inputs, options, error, message):
    pipe = pipeline("dna-classification", model=folders["several"][1], device="cpu")
    with pytest.raises(error, match=message):
        pipe(inputs, **options)


def test_refused_models_and_tokenizers(folders, tmp_path):
    """An untrained classifier and a tokenizer with other k-mers are refused."""
    with pytest.raises(ValueError, match="its classifier was never trained"):
        pipeline("dna-classification", model=folders["masked lm"][1], device="cpu")
    with pytest.raises(ValueError, match="k=3, vocabulary='barcodebert', but the model reads k=2"):
        pipeline("dna-feature-extraction", model=folders["mean"][1], tokenizer=KmerTokenizer(k=3), device="cpu")
    plain = PreTrainedTokenizerFast.from_pretrained(folders["mean"][1])
    with pytest.raises(ValueError, match="takes a KmerTokenizer, not"):
        pipeline("dna-feature-extraction", model=folders["mean"][0], tokenizer=plain, device="cpu")


def test_a_saved_pipeline_opens_again_without_remote_code(folders, tmp_path):
    pipe = pipeline("dna-classification", model=folders["several"][1], device="cpu")
    pipe.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert not (tmp_path / "pipelines.py").exists()
    again = pipeline("dna-classification", model=str(tmp_path), device="cpu")
    assert flat([again(BARCODES[0])]) == pytest.approx(flat([pipe(BARCODES[0])]))


REMOTE = """
import json, sys
sys.modules["bioscan_hf"] = None  # as if it were not installed
from transformers import pipeline
pipe = pipeline("text-classification", model=sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps(pipe(json.loads(sys.argv[2]), top_k=3, padding="max_length", truncation=True, batch_size=2)))
"""


@pytest.mark.slow
def test_the_standard_pipeline_without_this_package(folders):
    """A classifier of one rank gives the same answers with the standard task and the code beside the weights."""
    folder = folders["one"][1]
    done = subprocess.run(
        [sys.executable, "-c", REMOTE, folder, json.dumps(BARCODES)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours = pipeline("dna-classification", model=folder, device="cpu")(BARCODES, top_k=3)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert [[e["label"] for e in answer] for answer in theirs] == [[e["label"] for e in answer] for answer in ours]
    assert flat(theirs) == pytest.approx(flat(ours), abs=1e-6)


# ---- embeddings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "masked lm", "several"])
def test_embeddings_are_those_of_embed(folders, kind):
    """For the folder of every head, and for pooling over padding."""
    folder = folders[kind][1]
    pipe = pipeline("dna-feature-extraction", model=folder, device="cpu")
    table = Dataset.from_dict({"processid": list("abcde"), "dna_barcode": BARCODES})
    expected = embed(pipe.model, pipe.tokenizer, table).embeddings
    for batch_size in (1, 3):
        np.testing.assert_allclose(pipe(BARCODES, batch_size=batch_size), expected, atol=1e-6)
    single = pipe(BARCODES[1], return_tensors=True)
    assert isinstance(single, torch.Tensor) and single.shape == (16,)


def test_token_vectors(folders):
    """Without padding: a barcode of 8 nucleotides has 4 tokens of 2; their mean is the embedding."""
    pipe = pipeline("dna-feature-extraction", model=folders["several"][1], device="cpu")
    tokens = pipe(BARCODES[:3], tokens=True, return_tensors=True, batch_size=3)
    assert [len(vectors) for vectors in tokens] == [12, 4, 3]
    for vectors, embedding in zip(tokens, pipe(BARCODES[:3], return_tensors=True), strict=True):
        torch.testing.assert_close(vectors.mean(0), embedding)
    region = AlignedBarcodeModel(AlignedBarcodeConfig(positions=24, max_nucleotides=40, embedding_size=4))
    tokenizer = KmerTokenizer(k=1, max_nucleotides=40)
    region.fit_region([tuple(map(torch.from_numpy, tokenizer.encode_column(draw(30, 24))))])
    aligned = pipeline("dna-feature-extraction", model=region, tokenizer=tokenizer, device="cpu")
    assert len(aligned(BARCODES[0])) == 4
    with pytest.raises(ValueError, match="has no token vectors"):
        aligned(BARCODES[0], tokens=True)


def test_half_precision_and_device(folders):
    """Answers are float32 on the CPU for every dtype and device of the model."""
    pipe = pipeline("dna-feature-extraction", model=folders["several"][1], device="cpu", dtype=torch.bfloat16)
    assert pipe.model.dtype == torch.bfloat16 and pipe.device == torch.device("cpu")
    assert pipe(BARCODES[0], return_tensors=True).dtype == torch.float32
    if torch.cuda.is_available():
        pipe = pipeline("dna-feature-extraction", model=folders["several"][1], device=0)
        assert pipe.model.device.type == "cuda" and pipe(BARCODES[0], return_tensors=True).device.type == "cpu"


# ---- retrieval ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clibd(tmp_path_factory):
    """A tiny CLIBD with its processor, photos, and the folder of an index of the barcodes of three species."""
    folder = tmp_path_factory.mktemp("clibd")
    model = tiny_clibd("image", "dna")
    model.save_pretrained(folder)
    processor = ClibdProcessor(make_image_processor(32), KmerTokenizer(k=2, max_nucleotides=40))
    processor.save_pretrained(folder)
    with torch.no_grad():
        batch = processor(dna=draw(6, 40))
        keys = model.get_dna_features(batch["dna_input_ids"], batch["dna_attention_mask"]).numpy()
    labels = {"species": ["A a", "A a", "B b", "B b", "C c", None], "genus": ["A", "A", "B", "B", "C", "C"]}
    index = save_index(build_index(keys, labels), folder / "index")
    pixels = np.random.default_rng(1).integers(0, 256, (4, 40, 60, 3), dtype=np.uint8)
    return {
        "folder": str(folder),
        "index": index,
        "model": model,
        "keys": keys,
        "labels": labels,
        "photos": [Image.fromarray(photo) for photo in pixels],
    }


@pytest.fixture(scope="module")
def retrieval(clibd):
    return pipeline("zero-shot-species-retrieval", model=clibd["folder"], index=clibd["index"], device="cpu")


def test_a_barcode_finds_itself(clibd, retrieval):
    """The barcode of a key is nearest to it, with a cosine of 1, at every rank."""
    answers = retrieval(draw(6, 40), modality="dna", top_k=1, ranks=["genus", "species"], batch_size=4)
    for answer, genus, species in zip(answers, clibd["labels"]["genus"], clibd["labels"]["species"], strict=True):
        assert [(entry["rank"], entry["label"]) for entry in answer] == [("genus", genus), ("species", species)]
        assert [entry["score"] for entry in answer] == pytest.approx([1, 1], abs=1e-5)


def test_photos_equal_a_slow_reference(clibd, retrieval):
    """Each name once, with its largest cosine and its number of keys; top_k is all 6 keys."""
    answers = retrieval(clibd["photos"], top_k=6, batch_size=3)
    batch = retrieval.processor(images=clibd["photos"])
    with torch.no_grad():
        cosines = clibd["model"].get_image_features(batch["pixel_values"]).numpy() @ clibd["keys"].T
    for answer, row in zip(answers, cosines, strict=True):
        order = np.argsort(-row)
        names = [clibd["labels"]["species"][i] for i in order]
        assert [entry["label"] for entry in answer] == list(dict.fromkeys(names)), "A a, B b, C c and None"
        for entry in answer:
            mine = [row[i] for i, name in zip(order, names, strict=True) if name == entry["label"]]
            assert entry["score"] == pytest.approx(mine[0], abs=1e-5) and entry["keys"] == len(mine)


def test_photos_of_any_kind(clibd, retrieval, tmp_path):
    """PIL, array, path, bytes and the dictionaries of `datasets`, one by one and together."""
    photo = clibd["photos"][0]
    photo.save(tmp_path / "a.png")
    encoded = (tmp_path / "a.png").read_bytes()
    expected = retrieval(photo)
    kinds = [photo, np.array(photo), tmp_path / "a.png", str(tmp_path / "a.png"), encoded]
    kinds.append({"bytes": encoded, "path": None})
    for kind in kinds:
        assert retrieval(kind) == expected
    for again in retrieval(kinds, batch_size=4):
        assert [entry["label"] for entry in again] == [entry["label"] for entry in expected]
        assert flat([again]) == pytest.approx(flat([expected]), abs=1e-6)
    assert [len(answer) for answer in retrieval(photo for photo in clibd["photos"])] == [
        len(answer) for answer in retrieval(clibd["photos"])
    ]


def test_a_saved_retrieval_opens_again(clibd, retrieval, tmp_path):
    retrieval.save_pretrained(tmp_path)
    again = pipeline("zero-shot-species-retrieval", model=str(tmp_path), index=retrieval.index, device="cpu")
    assert again(clibd["photos"][0]) == retrieval(clibd["photos"][0])


def test_half_precision_of_photos(clibd):
    pipe = pipeline(
        "zero-shot-species-retrieval",
        model=clibd["folder"],
        index=clibd["index"],
        device="cpu",
        dtype=torch.bfloat16,
    )
    assert pipe.model.dtype == torch.bfloat16
    assert all(-1 <= entry["score"] <= 1 for entry in pipe(clibd["photos"][0]))


def test_refused_retrieval(clibd, retrieval, folders, tmp_path):
    task = "zero-shot-species-retrieval"
    with pytest.raises(ValueError, match="pass index="):
        pipeline(task, model=clibd["folder"], device="cpu")
    with pytest.raises(ValueError, match="takes a CLIBD model, not BarcodeBertModel"):
        pipeline(task, model=folders["mean"][0], processor=retrieval.processor, index=clibd["index"], device="cpu")
    with pytest.raises(ValueError, match="queries have 24 dimensions and the keys 3"):
        pipeline(task, model=clibd["folder"], index=build_index(np.eye(3), {}), device="cpu")
    with pytest.raises(FileNotFoundError, match="no index.json"):
        pipeline(task, model=clibd["folder"], index=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="modality is 'text'; give 'image' or 'dna'"):
        retrieval("Diptera", modality="text")
    with pytest.raises(ValueError, match="no rank 'family'. It has species, genus"):
        retrieval(clibd["photos"][0], ranks=["family"])
    with pytest.raises(ValueError, match="k is 7; give a positive number of neighbours, at most 6"):
        retrieval(clibd["photos"][0], top_k=7)
    with pytest.raises(ValueError, match="has 0 nucleotides"):
        retrieval("", modality="dna")
    with pytest.raises(FileNotFoundError, match="absent.jpg"):
        retrieval(str(tmp_path / "absent.jpg"))

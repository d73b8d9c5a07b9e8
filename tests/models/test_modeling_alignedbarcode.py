"""The aligned-barcode encoder: alignment, embeddings, padding, fitting, saving and loading.

The simulated family has 60 barcodes of 120 nucleotides, each with 8 % substitutions from one ancestor.
"""

import csv
import gzip
import weakref
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoTokenizer

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.embed import embed
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.modeling_alignedbarcode import NOTHING, AlignedBarcodeModel, anchor_ids, nucleotides
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

P = 120
KINDS = [
    {"embedding_size": 0, "profile_weight": 1.0},
    {"embedding_size": 8, "hidden_size": 0},
    {"embedding_size": 8, "hidden_size": 12},
    {"embedding_size": 8, "hidden_size": 12, "profile_weight": 0.3},
]


@cache
def family(count=60, seed=0):
    draw = np.random.default_rng(seed)
    ancestor = draw.choice(list("ACGT"), P)
    other = draw.random((count, P)) < 0.08
    return ["".join(np.where(row, draw.choice(list("ACGT"), P), ancestor)) for row in other]


@cache
def tokenizer():
    return KmerTokenizer(k=1, max_nucleotides=160)


def encode(barcodes):
    return tuple(map(torch.from_numpy, tokenizer().encode_column(barcodes)))


def fitted(**options):
    """A model fitted to the family, with random learned weights."""
    torch.manual_seed(0)
    model = AlignedBarcodeModel(AlignedBarcodeConfig(positions=P, max_nucleotides=160, **(KINDS[1] | options))).eval()
    assert model.fit_region([encode(family()[:40]), encode(family()[40:])]) == 60
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def letters(barcode):
    return np.array(["ACGT".find(letter) % 5 for letter in barcode])


def restated_profile(model, aligned):
    """Profiles (n, 4 P) by numpy: 1 for the nucleotide, minus the frequencies."""
    frequency = model.nucleotide_frequency.detach().double().numpy()
    rows = np.zeros((len(aligned), P, 4))
    for i, row in enumerate(aligned):
        for place, letter in enumerate(row):
            if letter < 4:
                rows[i, place] = np.eye(4)[letter] - frequency[place]
    return rows.reshape(len(aligned), -1)


READS = {
    "whole": (lambda b: b, 0),
    "cut in front": (lambda b: b[17:], 17),
    "cut behind": (lambda b: b[:-23], 0),
    "cut at both ends": (lambda b: b[30:90], 30),
    "longer in front": (lambda b: "GATTACAGG" + b, -9),
    "longer behind": (lambda b: b + "ACGTTGCATCGG", 0),
    "longer at both ends": (lambda b: "GATTACAGG" + b + "ACGTTGCATCGG", -9),
    "with N": (lambda b: b[5:40] + "N" * 10 + b[50:], 5),
}


@pytest.mark.parametrize("kind", READS)
def test_reads_are_aligned(kind):
    change, first = READS[kind]
    model, reads = fitted(), [change(barcode) for barcode in family()]
    output = model(*encode(reads))
    assert output.start.tolist() == [first] * 60
    expected = np.full((60, P), NOTHING)
    for i, read in enumerate(reads):
        for place, letter in enumerate(letters(read)):
            if 0 <= first + place < P:
                expected[i, first + place] = letter
    assert np.array_equal(output.aligned, expected) and output.aligned.dtype == torch.int32
    assert output.alignment_score.min() > 0.8


def test_other_reads_have_low_scores():
    """Random reads, the other strand, and reads without a whole k-mer, which start with the region.

    A random read of 120 has a few anchors of this short region by chance, two or three of which may agree.
    """
    model = fitted()
    draw = np.random.default_rng(1)
    random = ["".join(draw.choice(list("ACGT"), P)) for _ in range(60)]
    reverse = [barcode[::-1].translate(str.maketrans("ACGT", "TGCA")) for barcode in family()]
    own = model(*encode(family())).alignment_score
    for reads in (random, reverse):
        score = model(*encode(reads)).alignment_score
        assert score.max() < 0.8 < own.min() and score.mean() < 0.5
    nothing = model(*encode(["", "N" * 50, family()[0][:5], "ACGTANCGTAN" * 5]))
    assert nothing.start.tolist() == [0] * 4 and nothing.alignment_score.tolist() == [0] * 4
    lone = model(torch.tensor([[2, 3, 4]]))  # shorter than k as a whole batch
    assert lone.aligned[0].tolist() == [0, 1, 2] + [NOTHING] * (P - 3)


def test_alignment_by_hand():
    """k = 4 and the region AACCGGTTA of 9; full-length barcodes are AACCGGTTA twice, and CACCGGTTA.

    Its k-mers are AACC, ACCG, CCGG, CGGT, GGTT, GTTA at 0 to 5; CACC is at 0. Weights are m / sqrt(n + 1), divided by
    the largest: AACC occurs twice, 2 / sqrt(3); the others three times, 3 / sqrt(4), which are 1000; CACC 1 / sqrt(2).
    So AACC has 1000 (2 / 1.7320508) / 1.5 = 769.8, CACC 471.4. The read TTCCGGTTAA starts at 0 by CCGG at 2, CGGT,
    GGTT and GTTA; TTCC, TCCG and TTAA are not anchors: its score is 1. In AACCTTACCGGT, AACC votes for 0, and ACCG,
    CCGG, CGGT for -5: the score is 3000 / 3770.
    """
    model = AlignedBarcodeModel(AlignedBarcodeConfig(positions=9, anchor_k=4, embedding_size=0, profile_weight=1.0))
    batch = encode(["AACCGGTTA", "AACCGGTTA", "CACCGGTTA"])
    assert model.fit_region([batch]) == 3
    number = {
        kmer: int(anchor_ids(torch.from_numpy(letters(kmer)).int()[None], 4)) for kmer in ("AACC", "CACC", "GTTA")
    }
    assert number == {"AACC": 5, "CACC": 69, "GTTA": 188}
    assert model.anchor_weight[[5, 69, 188]].tolist() == [770, 471, 1000]
    assert model.anchor_position[[5, 69, 188]].tolist() == [0, 0, 5]
    output = model(*encode(["TTCCGGTTAA", "AACCTTACCGGT"]))
    assert output.start.tolist() == [0, -5]
    assert output.alignment_score.tolist() == pytest.approx([1.0, 3000 / 3770])
    assert output.aligned[1].tolist() == [*letters("TACCGGT"), NOTHING, NOTHING]
    # 3.5 A or C of 5 at the first place: 2 A and 1 C, and half a one of each nucleotide
    assert_close(model.nucleotide_frequency[0], torch.tensor([2.5, 1.5, 0.5, 0.5]) / 5)


def test_kmer_numbers():
    """Alphabetical, up to k = 8; 4**k for windows with N, whatever the other letters."""
    texts = ["TTTTTTTTT", "NTTTTTTTT", "TTTTTTTTN", "NNNNNNNNN", "TNNNNNNNT", "ACGTACGTA"]
    rows = torch.tensor([[("ACGTN").index(letter) for letter in text] for text in texts], dtype=torch.int32)
    for k in (4, 8):
        found = anchor_ids(rows, k)
        for text, row in zip(texts, found.tolist(), strict=True):
            for i, number in enumerate(row):
                kmer = text[i : i + k]
                plain = 4**k if "N" in kmer else sum("ACGT".index(a) * 4 ** (k - 1 - j) for j, a in enumerate(kmer))
                assert number == plain
    assert anchor_ids(rows[:, :3], 4).tolist() == [[256]] * 6
    assert nucleotides(torch.tensor([[0, 1, 2, 3, 4, 5, 6, -1]])).tolist() == [[4, 4, 0, 1, 2, 3, 4, 4]]


@pytest.mark.parametrize("options", KINDS)
def test_embedding_equals_its_definition(options):
    """Profile, linear projection and hidden layer of normalized profiles, by numpy in float64."""
    model = fitted(**options)
    reads = [family()[0], family()[1][20:], "NNNN" + family()[2][4:100], ""]
    output = model(*encode(reads))
    rows = restated_profile(model, output.aligned.numpy())
    assert_close(model.profile(output.aligned).double(), torch.from_numpy(rows), rtol=0, atol=1e-6)

    def one(x):
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    weight = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    share, profile = model.config.profile_weight, one(rows)
    expected = [share**0.5 * profile] if share else []
    if share < 1:
        learned = profile @ weight["projection.weight"].T
        if model.hidden is not None:
            hidden = torch.from_numpy(profile @ weight["hidden.weight"].T + weight["hidden.bias"])
            learned += torch.nn.functional.gelu(hidden).numpy() @ weight["output.weight"].T + weight["output.bias"]
        expected.append((1 - share) ** 0.5 * one(learned))
    expected = torch.from_numpy(np.concatenate(expected, 1))
    expected[3] = 0  # an empty barcode
    assert output.pooler_output.shape == (4, model.config.output_size)
    assert_close(output.pooler_output.double(), expected, rtol=0, atol=1e-6)
    assert_close(output.pooler_output.norm(dim=1), torch.tensor([1.0, 1, 1, 0]), rtol=0, atol=1e-5)


def test_cosines_weigh_rare_nucleotides():
    """The rarer a shared nucleotide, the larger the cosine of two reads."""
    model = fitted(embedding_size=0, profile_weight=1.0)
    frequency = model.nucleotide_frequency
    place = int(((frequency > 0.05).sum(1) == 2).int().argmax())  # two nucleotides occur there
    barcodes = [barcode[:place] + letter + barcode[place + 1 :] for barcode in family()[:2] for letter in "ACGT"]
    vectors = model(*encode(barcodes)).pooler_output
    cosines = (vectors[:4] * vectors[4:]).sum(1)[frequency[place].argsort(descending=True)].tolist()
    assert cosines[0] < cosines[1] < min(cosines[2:])


@pytest.mark.parametrize("options", KINDS)
def test_padding_and_batch_have_no_effect(options):
    model = fitted(**options)
    reads = [family()[0], family()[1][30:], family()[2][:50], "ACG", ""]
    ids, mask = encode(reads)
    padded = model(ids, mask)
    noise = model(ids.where(mask == 1, 3), mask)
    for name in ("pooler_output", "aligned", "start", "alignment_score"):
        assert torch.equal(padded[name], noise[name])
    for i, read in enumerate(reads[:-1]):
        alone = model(ids[i : i + 1, : len(read)])
        assert torch.equal(alone.aligned[0], padded.aligned[i]) and alone.start[0] == padded.start[i]
        assert_close(alone.pooler_output[0], padded.pooler_output[i], rtol=0, atol=1e-6)


def test_full_length_barcodes_define_the_region():
    """Shorter and longer barcodes, and barcodes with N, do not define it, but count for the frequencies.

    A fifth of the barcodes of the right length start 30 nucleotides later: the second round leaves them out.
    """
    shifted = [barcode[30:] + "ACGTTGCAGGATCCATTGCAAGTCCGATTA" for barcode in family(15, seed=0)]
    batches = [encode([*family(), *shifted, family()[0][:50], family()[0] + "A", "N" + family()[0][1:], "", "ACG"])]
    model = AlignedBarcodeModel(AlignedBarcodeConfig(positions=P, max_nucleotides=160, **KINDS[0]))
    assert model.fit_region(batches) == 60
    output = model(*batches[0])
    assert output.start[60:75].tolist() == [30] * 15 and output.start[75:78].tolist() == [0, 0, 0]
    counts = torch.stack([(output.aligned == letter).sum(0) for letter in range(4)], 1) + 0.5
    assert_close(model.nucleotide_frequency, counts / counts.sum(1, keepdim=True), rtol=0, atol=1e-6)


class Passes:
    """Batches of barcodes that are made each time, and how many are held at most."""

    def __init__(self, parts):
        self.parts, self.read, self.alive, self.most = parts, 0, weakref.WeakSet(), 0

    def __iter__(self):
        self.read += 1
        for part in self.parts:
            made = encode(part)
            self.alive.add(made[0])
            self.most = max(self.most, len(self.alive))
            yield made


def test_fitting_keeps_no_barcodes():
    """Twenty batches are read four times, and at most two are held, with the result of one batch."""
    whole = family() * 2
    passes = Passes([whole[start : start + 6] for start in range(0, 120, 6)])
    fitted = []
    for batches in (passes, [encode(whole)]):
        torch.manual_seed(0)
        fitted.append(AlignedBarcodeModel(AlignedBarcodeConfig(positions=P, max_nucleotides=160, embedding_size=4)))
        assert fitted[-1].fit_region(batches) == 120
    assert passes.read == 4 and passes.most <= 2
    one, two = (model.state_dict() for model in fitted)
    assert all(torch.equal(one[name], two[name]) for name in one if name != "projection.weight")
    assert_close(one["projection.weight"].abs(), two["projection.weight"].abs(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", KINDS)
def test_fitting_is_deterministic_and_independent_of_batches(options):
    """Equal up to rounding for one batch, several of a generator, narrower ones, and a second fit."""
    states = []
    whole, short = family(), [barcode[:70] for barcode in family()[:9]]
    narrow = tuple(part[:, :70] for part in encode(short))
    for batches in (
        [encode(whole + short)],
        [encode(whole + short)],
        (encode(part) for part in (whole[:7], whole[7:], short)),
        [encode(whole), narrow],
    ):
        torch.manual_seed(0)
        model = AlignedBarcodeModel(AlignedBarcodeConfig(positions=P, max_nucleotides=160, **options))
        model.fit_region(batches)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    for other in states[2:]:
        for name, value in states[0].items():
            assert_close(value.abs(), other[name].abs(), rtol=0, atol=1e-4)  # components may change their sign


def test_projection_starts_as_principal_components():
    """Its rows are the principal directions of the profiles, in order; the hidden layer adds 0."""
    torch.manual_seed(0)
    model = AlignedBarcodeModel(AlignedBarcodeConfig(positions=P, max_nucleotides=160, **KINDS[2])).eval()
    model.fit_region([encode(family())])
    profile = restated_profile(model, model.align(*encode(family()))[0].numpy())
    profile /= np.linalg.norm(profile, axis=1, keepdims=True)
    values = np.linalg.svd(profile, compute_uv=False)
    weight = model.projection.weight.detach().double().numpy()
    assert weight @ weight.T == pytest.approx(np.eye(8), abs=1e-5)
    assert np.linalg.norm(profile @ weight.T, axis=0) == pytest.approx(values[:8], abs=1e-4)
    learned = model.embed_aligned(model.align(*encode(family()))[0])
    plain = torch.from_numpy(profile @ weight.T).float()
    assert_close(learned, torch.nn.functional.normalize(plain, dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("barcodes", "message"),
    [
        (["ACGT" * 30], "1 of the barcodes have exactly 120 nucleotides, but 2 or more are needed"),
        (["ACGT" * 20] * 9, "0 of the barcodes"),
        (["ACGT" * 29 + "ACGN"] * 9, "0 of the barcodes"),
        ([], "0 of the barcodes"),
    ],
)
def test_fit_region_needs_full_length_barcodes(barcodes, message):
    model = AlignedBarcodeModel(AlignedBarcodeConfig(positions=P, max_nucleotides=160))
    with pytest.raises(ValueError, match=message):
        model.fit_region([encode(barcodes)] if barcodes else [])
    with pytest.raises(RuntimeError, match="no anchors yet.*fit_region"):
        model(*encode(family()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 4}, r"single nucleotides \(k=1, vocabulary='barcodebert'\), not k=4"),
        ({"vocabulary": "clibd"}, "vocabulary='clibd'"),
        ({"pooling": "mean"}, "pooling is 'mean'"),
        ({"anchor_k": 3}, "anchor_k is 3"),
        ({"anchor_k": 9}, "anchor_k is 9"),
        ({"positions": 5}, r"positions \(5\) must be at least anchor_k \(6\)"),
        ({"max_nucleotides": 657}, r"positions \(658\) must be .* at most max_nucleotides \(657\)"),
        ({"profile_weight": 1.5}, "profile_weight is 1.5"),
        ({"profile_weight": 1.0}, "embedding_size is 256 and profile_weight 1.0"),
        ({"embedding_size": 0}, "embedding_size is 0 and profile_weight 0.0"),
        ({"embedding_size": -1}, r"embedding_size \(-1\) and hidden_size"),
        ({"hidden_size": -1}, r"hidden_size \(-1\) must be 0 or more"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_contradictory_config_raises(options, message):
    with pytest.raises(ValueError, match=message):
        AlignedBarcodeConfig(**options)
    config = AlignedBarcodeConfig()
    for name, value in options.items():
        with pytest.raises(ValueError, match=message):
            setattr(config, name, value)
            config.validate_architecture()


@pytest.mark.parametrize("options", KINDS[1:])
def test_learned_parameters_get_gradients(options):
    model = fitted(**options).train()
    vectors = model(*encode(family()[:8])).pooler_output
    (vectors[:4] * vectors[4:]).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert grads and all(grad is not None and grad.any() for grad in grads.values())
    assert model.nucleotide_frequency.grad is None
    assert model.config.hidden_size == 0 or not torch.equal(*(model(*encode(family())).pooler_output for _ in "ab"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", KINDS)
def test_half_precision(options, dtype):
    """The alignment is exact, because votes are integers."""
    model, half = fitted(**options), fitted(**options).to(dtype)
    one, other = model(*encode(family())), half(*encode(family()))
    assert other.pooler_output.dtype == dtype
    assert torch.equal(one.aligned, other.aligned) and torch.equal(one.alignment_score, other.alignment_score)
    assert torch.nn.functional.cosine_similarity(one.pooler_output, other.pooler_output.float()).min() > 0.99


@pytest.mark.parametrize("options", KINDS)
def test_saved_and_loaded_are_equal(options, tmp_path):
    model = fitted(**options)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    again, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is AlignedBarcodeModel and not info["missing_keys"] and not info["unexpected_keys"]
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    trained = [{name for name, weight in m.named_parameters() if weight.requires_grad} for m in (model, again)]
    assert trained[0] == trained[1], "loading made the nucleotide frequencies trainable"
    state = model.state_dict()
    assert {"anchor_position", "anchor_weight", "nucleotide_frequency"} <= set(state)
    for name, value in again.state_dict().items():
        assert torch.equal(value, state[name]) and value.dtype == state[name].dtype
    batch = AutoTokenizer.from_pretrained(tmp_path)(family(), return_tensors="pt")
    assert torch.equal(again.eval()(**batch).pooler_output, model(**batch).pooler_output)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(half.anchor_weight, model.anchor_weight), "whole numbers keep their value"


def test_embedding_a_table(tmp_path):
    """`embed` and `load_encoder` on a folder: rows in order, in both precisions, none for an empty barcode.

    Reads are longer than the region, and one is longer than what the tokenizer reads.
    """
    model = fitted(**KINDS[3])
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    reads = ["GATTACAGG" + barcode + "ACGTTGCATC" for barcode in family()] + ["", family()[0] + "A" * 100]
    table = pa.table({"processid": [f"P{i}" for i in range(62)], "dna_barcode": reads})
    found = embed(*load_encoder(str(tmp_path)), table, batch_size=7)
    assert found.valid.tolist() == [True] * 60 + [False, True] and not found.embeddings[60].any()
    with torch.no_grad():
        expected = model(*encode(reads)).pooler_output
    assert_close(torch.from_numpy(found.embeddings), expected, rtol=0, atol=1e-5)
    half = embed(*load_encoder(str(tmp_path)), table, dtype="bfloat16")
    cosine = (half.embeddings * found.embeddings).sum(1)[found.valid]
    assert half.embeddings.dtype == np.float32 and cosine.min() > 0.99


@pytest.mark.realdata
def test_halves_of_real_reads_have_equal_alignments(real_data):
    """The first 300 nucleotides and the rest of real COI barcodes give equal starts in more than 97 % of cases.

    An insertion or deletion between them, an intron, or a record of another gene makes the others differ.
    """
    with gzip.open(real_data / "bold_coi5p_sample.csv.gz", "rt", newline="") as file:
        barcodes = list(dict.fromkeys(row["dna_barcode"] for row in csv.DictReader(file)))
    own = KmerTokenizer(k=1)
    model = AlignedBarcodeModel(AlignedBarcodeConfig(embedding_size=0, profile_weight=1.0)).eval()
    assert model.fit_region([tuple(map(torch.from_numpy, own.encode_column(barcodes)))]) > 800
    starts, scores = [], []
    for reads in (barcodes, [barcode[:300] for barcode in barcodes], [barcode[300:] for barcode in barcodes]):
        _, start, score = model.align(*map(torch.from_numpy, own.encode_column(reads)))
        starts.append(start)
        scores.append(score)
    assert len(barcodes) > 2000
    assert ((starts[1] == starts[0]) & (starts[2] == starts[0] + 300)).float().mean() > 0.97
    assert (scores[0] > 0.15).float().mean() > 0.99

"""The k-mer tokenizer: published cases, and equality of its three ways of encoding.

The published ids and masks are in tests/fixtures (provenance in the README there).
"""

import gzip
import hashlib
import json
import pickle
import subprocess
import sys
import textwrap
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, PreTrainedTokenizerFast

from bioscan_hf.barcodes import spell
from bioscan_hf.models.tokenization_kmer import VOCABULARIES, KmerTokenizer, kmer_vocabulary
from bioscan_hf.schema import MAX_NUCLEOTIDES

FIXTURES = Path(__file__).parents[1] / "fixtures"

with gzip.open(FIXTURES / "tokenizer_cases.json.gz", "rt", encoding="utf-8") as file:
    PUBLISHED = json.load(file)

NAMES = {
    "main": "barcodebert",
    "main_tokenizeN": "barcodebert-n",
    "workshop2023": "barcodebert-2023",
    "bzsl_clibd": "clibd",
}

#: Vocabulary -> id of the token before each barcode.
FIRST = {"clibd": 0, "barcodebert-cls": 2}

#: Vocabularies that pad with N at the start, and attend to it.
LEFT = ("barcodemamba", "barcodemamba-char")


def k_of(vocabulary: str, k: int) -> int:
    """k, or the largest k of a vocabulary."""
    return min(k, VOCABULARIES[vocabulary].largest_k)


BARCODES = [
    "ACGTACGTAC",
    "",
    "ACG",
    "NNACGTNNNNNACGT",
    "acgt-ACGTRYK",
    "ACGT" * 200,
    "Ä" + "ACGT" * 40 + "日本語",
    "A" * 659,
]


@lru_cache(maxsize=32)
def tokenizer_of(k: int, vocabulary: str) -> KmerTokenizer:
    return KmerTokenizer(k, vocabulary)


def named(variant: str) -> tuple[int, str]:
    """ "main_tokenizeN_k3" -> (3, "barcodebert-n")."""
    name, k = variant.rsplit("_k", 1)
    return int(k), NAMES[name]


@lru_cache(maxsize=32)
def plain_ids(k: int, vocabulary: str) -> dict[str, int]:
    """The vocabulary by definition: special tokens, k-mers of ACGT, k-mers with N."""
    specials = ["<MASK>", "<CLS>", "<UNK>"] if vocabulary in ("barcodebert-2023", "clibd") else ["[MASK]", "[UNK]"]
    specials += ["[CLS]"] * (vocabulary == "barcodebert-cls")
    specials = ["[MASK]", "[SEP]", "[UNK]"] if vocabulary in LEFT else specials
    kmers = sorted("".join(letters) for letters in product("ACGT", repeat=k))
    if vocabulary in ("barcodebert-n", "barcodemamba-char"):
        order = "ACGTN".index
        with_n = ["".join(letters) for letters in product("ACGTN", repeat=k) if "N" in letters]
        kmers += sorted(with_n, key=lambda kmer: [order(letter) for letter in kmer])
    return {token: index for index, token in enumerate(specials + kmers)}


def plain_encode(barcode: str, k: int, vocabulary: str, offset: int = 0) -> tuple[list[int], list[int]]:
    """The published rule for the one spelling: cut, pad with N to 660 letters, look up k-mers; mask the whole ones.

    BarcodeMamba pads at the start and has no mask; an empty barcode is masked.
    """
    barcode = spell(barcode) or ""
    ids = plain_ids(k, vocabulary)
    unknown = 2 if vocabulary in ("barcodebert-2023", "clibd", *LEFT) else 1
    cut = barcode[offset:][:660]
    filling = "N" * (660 - len(cut))
    padded = filling + cut if vocabulary in LEFT else cut + filling
    encoded = [ids.get(padded[place : place + k], unknown) for place in range(0, 660 - k + 1, k)]
    whole = min(len(cut) // k, len(encoded))
    if vocabulary in LEFT:
        whole = len(encoded) if cut else 0
    mask = [1] * whole + [0] * (len(encoded) - whole)
    return ([FIRST[vocabulary], *encoded], [1, *mask]) if vocabulary in FIRST else (encoded, mask)


def check_call(tokenizer: KmerTokenizer, barcodes: list[str], ids: np.ndarray, mask: np.ndarray) -> None:
    """A call gives `ids` and `mask`, with padding for the masked last piece of `barcodebert-n`."""
    called = tokenizer(barcodes, return_tensors="np")
    np.testing.assert_array_equal(called["attention_mask"], mask)
    expected = ids.copy()
    if tokenizer.vocabulary == "barcodebert-n":
        for row, whole in enumerate(mask.sum(1)):
            if whole < ids.shape[1]:
                assert mask[row, whole] == 0
                expected[row, whole] = tokenizer.pad_token_id
    np.testing.assert_array_equal(called["input_ids"], expected)


# --- parity with the published tokenizers ---


@pytest.mark.parametrize(
    ("variant", "case", "offset"),
    [
        (variant, case, int(offset))
        for variant, cases in PUBLISHED["variants"].items()
        for case, offsets in cases.items()
        for offset in offsets
    ],
)
def test_published_case(variant: str, case: str, offset: int) -> None:
    k, vocabulary = named(variant)
    tokenizer = tokenizer_of(k, vocabulary)
    barcode = PUBLISHED["sequences"][case]
    published = PUBLISHED["variants"][variant][case][str(offset)]
    ids, mask = tokenizer.encode_column([barcode], offset)
    assert (ids[0].tolist(), mask[0].tolist()) == plain_encode(barcode, k, vocabulary, offset)
    if spell(barcode) in (barcode, None):  # the published code reads other spellings as unknown letters
        assert ids[0].tolist() == published["ids"]
        if published.get("mask") is not None:  # the release of 2023 and CLIBD had none
            assert mask[0].tolist() == published["mask"]
    check_call(tokenizer, [(spell(barcode) or "")[offset:]], ids, mask)


def test_every_published_variant_is_there() -> None:
    """13 variants, 5 of them with and without offset. The test above would pass with a truncated file.

    BarcodeMAE+ and BarcodeMamba have published no ids; `plain_encode` has their rules.
    """
    variants = PUBLISHED["variants"]
    assert len(variants) == 13
    assert {named(variant)[1] for variant in variants} == set(VOCABULARIES) - {"barcodebert-cls", *LEFT}
    assert sum(any("1" in offsets for offsets in cases.values()) for cases in variants.values()) == 5


CLIBD = json.loads((FIXTURES / "clibd/dna_tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CLIBD["cases"])
def test_published_clibd_case(case: str) -> None:
    barcode = CLIBD["cases"][case]["seq"]
    tokenizer = tokenizer_of(5, "clibd")
    if spell(barcode) not in (barcode, None):  # other spellings are unknown letters there, and the same barcode here
        assert tokenizer(barcode)["input_ids"] == tokenizer(spell(barcode))["input_ids"]
        assert tokenizer(barcode)["input_ids"] != CLIBD["cases"][case]["ids"]
        return
    assert tokenizer(barcode)["input_ids"] == CLIBD["cases"][case]["ids"]
    assert tokenizer.encode_column([barcode])[0].tolist() == [CLIBD["cases"][case]["ids"]]


def test_published_clibd_vocabulary() -> None:
    tokens = kmer_vocabulary(5, "clibd")
    assert len(tokens) == CLIBD["vocab_size"] == 1027
    assert hashlib.sha256("\n".join(tokens).encode()).hexdigest() == CLIBD["sha256_itos"]


VOCABULARY_SUMS = json.loads((FIXTURES / "tokenizer_vocabularies.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("variant", [name for name in VOCABULARY_SUMS if name.rsplit("_k", 1)[0] in NAMES])
def test_published_vocabulary(variant: str) -> None:
    """Order and number of tokens, also in the tokenizer."""
    k, vocabulary = named(variant)
    published = VOCABULARY_SUMS[variant]
    tokens = kmer_vocabulary(k, vocabulary)
    assert len(tokens) == published["size"]
    assert hashlib.sha256("\n".join(tokens).encode()).hexdigest() == published["sha256_newline_joined"]
    tokenizer = tokenizer_of(k, vocabulary)
    assert len(tokenizer) == published["size"]  # no token was added
    assert tokenizer.unk_token_id == published["default_index"]
    assert tokenizer.mask_token_id == 0


def test_ids_by_hand() -> None:
    """With A, C, G, T = 0, 1, 2, 3 and two special tokens: ACGC = 0*64 + 1*16 + 2*4 + 1 + 2 = 27; TTTT = 255 + 2;
    ACGN is unknown = 1 and seen; the last TT is no whole k-mer, so padding = 1 and not seen."""
    ids, mask = tokenizer_of(4, "barcodebert").encode_column(["ACGCTTTTACGNTT"])
    assert ids[0, :5].tolist() == [27, 257, 1, 1, 1]
    assert mask[0, :5].tolist() == [1, 1, 1, 0, 0]
    assert ids.shape == (1, 165) and ids.dtype == mask.dtype == np.int64


def test_ids_with_n_by_hand() -> None:
    """k=2: specials 0, 1; AA..TT are 2..17; then AN 18, CN 19, GN 20, TN 21, NA 22, NC 23, NG 24, NT 25, NN 26.

    The last single G is filled up to GN = 20 in a column, under its mask of 0; a call pads with NN = 26 instead."""
    tokenizer = KmerTokenizer(2, "barcodebert-n", max_nucleotides=12)
    ids, mask = tokenizer.encode_column(["TTNGNNARG"])
    assert ids.tolist() == [[17, 24, 26, 1, 20, 26]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0]]
    assert tokenizer("TTNGNNARG")["input_ids"] == [17, 24, 26, 1, 26, 26]
    assert tokenizer("TTNGNNARG")["attention_mask"] == [1, 1, 1, 1, 0, 0]


# --- the three ways are one ---

LETTERS = st.one_of(
    st.text("ACGT", max_size=50),
    st.text("ACGTN", max_size=50),
    st.text("ACGTacgtNnRYKMSWBDHVU-*. \n\t", max_size=50),
    st.text(st.characters(exclude_characters="[<", exclude_categories=["Cs"]), max_size=10),  # no "[MASK]", no "<UNK>"
)
BARCODE = st.builds(
    lambda parts, times, length: ("".join(parts) * times)[:length],
    st.lists(LETTERS, max_size=4),
    st.integers(1, 60),
    st.one_of(st.integers(0, 1600), st.integers(650, 665)),
)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_column_call_and_plain_rule_are_equal(vocabulary: str, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, max(1, VOCABULARIES[vocabulary].largest_k - 2)))
    barcodes = data.draw(st.lists(BARCODE, min_size=1, max_size=8))
    offsets = data.draw(st.lists(st.integers(0, 12), min_size=len(barcodes), max_size=len(barcodes)))
    tokenizer = tokenizer_of(k, vocabulary)
    ids, mask = tokenizer.encode_column(barcodes, offsets)
    for row, (barcode, offset) in enumerate(zip(barcodes, offsets, strict=True)):
        expected_ids, expected_mask = plain_encode(barcode, k, vocabulary, offset)
        assert ids[row].tolist() == expected_ids
        assert mask[row].tolist() == expected_mask
    check_call(tokenizer, barcodes, *tokenizer.encode_column(barcodes))
    for barcode, ids_of_one, mask_of_one in zip(barcodes, *tokenizer(barcodes).values(), strict=True):
        one = tokenizer(barcode)
        assert (one["input_ids"], one["attention_mask"]) == (ids_of_one, mask_of_one)


@pytest.mark.parametrize(
    ("k", "vocabulary"),
    [
        (7, "barcodebert"),
        (8, "barcodebert"),
        (6, "barcodebert-n"),
        (7, "barcodebert-2023"),
        (8, "clibd"),
        (8, "barcodemamba"),
    ],
)
def test_largest_k(k: int, vocabulary: str) -> None:
    """A single other letter, at any place, makes a k-mer unknown."""
    barcodes = ["T" * 660, *("T" * place + "R" + "T" * 20 for place in range(k)), "N" * 30, "R" * 30, *BARCODES]
    ids, mask = tokenizer_of(k, vocabulary).encode_column(barcodes)
    for row, barcode in enumerate(barcodes):
        assert (ids[row].tolist(), mask[row].tolist()) == plain_encode(barcode, k, vocabulary)


def many_barcodes(n: int) -> list[str]:
    """Barcodes of every length from 0 to 700, in more than one block, some not ASCII."""
    random = np.random.default_rng(0)
    barcodes = ["".join(random.choice(list("ACGTN"), size=length)) for length in random.integers(0, 700, n)]
    barcodes[5] = "ÅCGT" + barcodes[5]
    barcodes[-1] = barcodes[-1] + "🧬ACGT" * 3
    return barcodes


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_many_blocks(vocabulary: str) -> None:
    """Rows keep their order and offsets over several blocks (1,024 rows), ASCII and not."""
    barcodes = many_barcodes(2500)
    offsets = np.random.default_rng(1).integers(0, 4, len(barcodes))
    k = k_of(vocabulary, 4)
    ids, mask = tokenizer_of(k, vocabulary).encode_column(barcodes, offsets)
    expected = [
        plain_encode(barcode, k, vocabulary, offset) for barcode, offset in zip(barcodes, offsets, strict=True)
    ]
    np.testing.assert_array_equal(ids, [row for row, _ in expected])
    np.testing.assert_array_equal(mask, [row for _, row in expected])


def test_one_offset_is_the_same_for_each_row() -> None:
    tokenizer = tokenizer_of(4, "barcodebert")
    for offset in (0, 3, 5000):
        one = tokenizer.encode_column(BARCODES, offset)
        each = tokenizer.encode_column(BARCODES, torch.full((len(BARCODES),), offset))
        np.testing.assert_array_equal(one, each)
        np.testing.assert_array_equal(one, tokenizer.encode_column([barcode[offset:] for barcode in BARCODES]))


# --- kinds of columns ---


def arrow_columns() -> dict[str, Any]:
    """`BARCODES` as every kind of column, some of them windows on longer ones."""
    longer = ["TTTT", *BARCODES, "GGGG"]
    dataset = Dataset.from_dict({"dna_barcode": longer})
    n = len(BARCODES)
    return {
        "tuple": tuple(BARCODES),
        "objects": np.array(BARCODES, dtype=object),
        "numpy strings": np.array(BARCODES),
        "string": pa.array(BARCODES, pa.string()),
        "large_string": pa.array(BARCODES, pa.large_string()),
        "string_view": pa.array(BARCODES, pa.string_view()),
        "dictionary": pa.array(BARCODES).dictionary_encode(),
        "sliced string": pa.array(longer, pa.string()).slice(1, n),
        "sliced large_string": pa.array(longer, pa.large_string()).slice(1, n),
        "chunks": pa.chunked_array([BARCODES[:3], [], BARCODES[3:]], pa.string()),
        "sliced chunks": pa.chunked_array([longer[:2], longer[2:5], longer[5:]], pa.large_string()).slice(1, n),
        "slice beside a null": pa.array([None, *BARCODES, None]).slice(1, n),
        "datasets column": dataset.select(range(1, n + 1))["dna_barcode"],
        "datasets in arrow format": dataset.with_format("arrow")[1 : n + 1]["dna_barcode"],
    }


@pytest.mark.parametrize("kind", list(arrow_columns()))
def test_kinds_of_columns(kind: str) -> None:
    column = arrow_columns()[kind]
    for vocabulary in ("barcodebert", "barcodebert-n"):
        expected = [plain_encode(barcode, 4, vocabulary, 1) for barcode in BARCODES]
        ids, mask = tokenizer_of(4, vocabulary).encode_column(column, 1)
        assert ids.tolist() == [row for row, _ in expected]
        assert mask.tolist() == [row for _, row in expected]


@pytest.mark.parametrize("column", [[], pa.array([], pa.string()), pa.chunked_array([], pa.large_string())])
def test_empty_column(column: Any) -> None:
    ids, mask = tokenizer_of(5, "clibd").encode_column(column)
    assert ids.shape == mask.shape == (0, 133)


@pytest.mark.parametrize("vocabulary", sorted(set(VOCABULARIES) - set(LEFT)))
def test_short_barcodes_are_padding_with_an_empty_mask(vocabulary: str) -> None:
    """The mask is 0, except that of a token before the barcode."""
    tokenizer = tokenizer_of(4, vocabulary)
    for column in (["", "A", "ACG"], pa.array(["", "", ""])):
        ids, mask = tokenizer.encode_column(column)
        assert mask.sum(1).tolist() == [vocabulary in FIRST] * 3
        assert (tokenizer(["", "A", "ACG"], return_tensors="np")["attention_mask"] == mask).all()
        assert (ids[0, -164:] == tokenizer.pad_token_id).all()


def test_padding_at_the_start_by_hand() -> None:
    """The frame is counted from the start of the padded barcode: the first k-mer with a letter holds N too."""
    tokenizer = KmerTokenizer(3, "barcodemamba", max_nucleotides=13)
    ids, mask = tokenizer.encode_column(["ACGTAC", "", "ACGTACGTACGTACG"], [0, 0, 1])
    assert ids.tolist() == [[2, 2, 2, 3 + 0b101100], [2] * 4, [3 + 0b011011, 3 + 0b000110, 3 + 0b110001, 3 + 0b101100]]
    assert mask.tolist() == [[1] * 4, [0] * 4, [1] * 4]


# --- as a tokenizer ---


def test_call_is_padded_and_in_two_dimensions() -> None:
    tokenizer = tokenizer_of(4, "barcodebert")
    batch = tokenizer("ACGTACGT", return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, 165)
    assert tokenizer(["ACGT" * 300], return_tensors="pt")["input_ids"].shape == (1, 165)
    assert len(tokenizer("ACGTACGT")["input_ids"]) == tokenizer.model_max_length == tokenizer.number_of_tokens == 165


def test_call_with_another_padding() -> None:
    tokenizer = tokenizer_of(5, "clibd")
    batch = tokenizer(["ACGTACGTAC", "ACGTA"], padding="longest", return_tensors="pt")
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert tokenizer("ACGTA", padding=False)["input_ids"] == [0, tokenizer.get_vocab()["ACGTA"]]
    assert len(tokenizer("A" * 700, padding=False, truncation=False)["input_ids"]) == 1 + 140
    assert len(tokenizer("A" * 700, max_length=20)["input_ids"]) == 20


@pytest.mark.parametrize(("vocabulary", "leading"), [("barcodebert", 0), ("barcodebert-cls", 1), ("clibd", 1)])
@pytest.mark.parametrize("k", range(1, 9))
def test_fixed_length(k: int, vocabulary: str, leading: int) -> None:
    expected = {1: 660, 2: 330, 3: 220, 4: 165, 5: 132, 6: 110, 7: 94, 8: 82}[k] + leading
    tokenizer = tokenizer_of(k, vocabulary)
    assert tokenizer.number_of_tokens == tokenizer.model_max_length == expected
    assert tokenizer.encode_column(["A" * 658])[0].shape == (1, expected)


def test_special_tokens_in_the_text() -> None:
    """ "[MASK]" is read as the mask token, as fill-mask needs it; runs of N are not special."""
    assert tokenizer_of(4, "barcodebert").encode("ACGT[MASK]ACGT") == [29, 0, 29]
    assert tokenizer_of(4, "barcodebert-n").tokenize("ACNNNNACGT") == ["ACNN", "NNAC"]
    assert tokenizer_of(4, "barcodebert").decode([29, 0, 2]) == "ACGT [MASK] AAAA"


def test_default_length_is_that_of_the_release() -> None:
    assert KmerTokenizer().max_nucleotides == MAX_NUCLEOTIDES


# --- save and load ---


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_round_trip(vocabulary: str, tmp_path: Path) -> None:
    k = k_of(vocabulary, 3)
    tokenizer = KmerTokenizer(k, vocabulary, max_nucleotides=100)
    tokenizer.save_pretrained(tmp_path)
    for again in (
        KmerTokenizer.from_pretrained(tmp_path),
        KmerTokenizer.from_pretrained(tmp_path, trust_remote_code=True),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert (again.k, again.vocabulary, again.max_nucleotides) == (k, vocabulary, 100)
        assert again.model_max_length == tokenizer.model_max_length
        assert again(BARCODES) == tokenizer(BARCODES)
        np.testing.assert_array_equal(again.encode_column(BARCODES), tokenizer.encode_column(BARCODES))
    shorter = KmerTokenizer.from_pretrained(tmp_path, max_nucleotides=30)
    assert shorter.model_max_length == 30 // k + (vocabulary in FIRST)
    check_call(shorter, BARCODES, *shorter.encode_column(BARCODES))


def test_saved_files(tmp_path: Path) -> None:
    """No code, no second list of tokens, and the same bytes after any call."""
    tokenizer = KmerTokenizer(6)
    tokenizer.save_pretrained(tmp_path / "fresh")
    tokenizer(BARCODES, max_length=20)  # the Rust library keeps the last length
    tokenizer.save_pretrained(tmp_path / "used")
    KmerTokenizer.from_pretrained(tmp_path / "fresh").save_pretrained(tmp_path / "again")
    names = {path.name for path in (tmp_path / "fresh").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json"}
    for name in names:
        fresh = (tmp_path / "fresh" / name).read_bytes()
        assert fresh == (tmp_path / "used" / name).read_bytes()
    assert (tmp_path / "fresh/tokenizer.json").read_bytes() == (tmp_path / "again/tokenizer.json").read_bytes()
    config = json.loads((tmp_path / "again/tokenizer_config.json").read_text(encoding="utf-8"))
    assert "auto_map" not in config and "vocab" not in config
    assert (config["k"], config["vocabulary"], config["max_nucleotides"]) == (6, "barcodebert", 660)


WITHOUT_THE_PACKAGE = """
    import json, sys
    sys.modules["bioscan_hf"] = None  # any import of it fails
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    barcodes = json.loads(sys.argv[2])
    encoded = {}
    for name in json.loads(sys.argv[3]):
        for loader in (AutoTokenizer, PreTrainedTokenizerFast):
            tokenizer = loader.from_pretrained(f"{sys.argv[1]}/{name}")
            assert type(tokenizer).__name__ != "KmerTokenizer"
            batch = tokenizer(barcodes, padding="max_length", truncation=True)
            encoded[f"{name} {loader.__name__}"] = [batch["input_ids"], batch["attention_mask"]]
    print(json.dumps(encoded))
"""


@pytest.mark.slow
def test_loads_without_the_package(tmp_path: Path) -> None:
    """Without bioscan_hf, with and without the config.json of a model, ids and masks are equal."""
    for vocabulary in VOCABULARIES:
        KmerTokenizer(k_of(vocabulary, 3), vocabulary).save_pretrained(tmp_path / vocabulary)
    BertConfig(vocab_size=66).save_pretrained(tmp_path / "barcodebert")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(WITHOUT_THE_PACKAGE),
            tmp_path,
            json.dumps(BARCODES),
            json.dumps([*VOCABULARIES]),
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    encoded = json.loads(done.stdout.splitlines()[-1])
    assert len(encoded) == 2 * len(VOCABULARIES)
    for name, (ids, mask) in encoded.items():
        vocabulary = name.split()[0]
        called = tokenizer_of(k_of(vocabulary, 3), vocabulary)(BARCODES)
        assert (ids, mask) == (called["input_ids"], called["attention_mask"]), name


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": "dnabert"}, "Unknown vocabulary 'dnabert'. Choose one of barcodebert, barcodebert-n, "),
        ({"k": 0}, "k 0 is not possible.* from 1 to 8"),
        ({"k": 9}, "k 9 is not possible.* from 1 to 8"),
        ({"k": 4.0}, r"k 4\.0 is not possible"),
        ({"k": 7, "vocabulary": "barcodebert-n"}, "k 7 is not possible.*'barcodebert-n' takes .* from 1 to 6"),
        ({"k": 6, "max_nucleotides": 5}, "max_nucleotides 5 is not possible.* at least k, 6"),
        ({"pad_token": "[PAD]"}, r"pad_token is '\[PAD\]', but must be '\[UNK\]' in 'barcodebert'"),
    ],
)
def test_impossible_tokenizers(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KmerTokenizer(**arguments)


@pytest.mark.parametrize("trust", [False, True])
def test_other_k_than_the_saved_one_raises(tmp_path: Path, trust: bool) -> None:
    """k and the vocabulary determine the ids of a column, so they must be those of the file."""
    KmerTokenizer(2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of 18 tokens, is not 'barcodebert' with k=3, of 66"):
        KmerTokenizer.from_pretrained(tmp_path, k=3, trust_remote_code=trust)
    PreTrainedTokenizerFast.from_pretrained(tmp_path)  # the folder itself is sound


@pytest.mark.parametrize(
    "column",
    [
        ["ACGT", None, "ACGT", None],
        np.array(["ACGT", None, "ACGT", float("nan")], dtype=object),
        pa.chunked_array([["ACGT", None], ["ACGT", None]]),
        pa.array(["T", "ACGT", None, "ACGT", None]).slice(1),
    ],
)
def test_missing_barcodes(column: Any) -> None:
    with pytest.raises(ValueError, match=r"2 of 4 barcodes are missing \(row 1, 3\)"):
        tokenizer_of(4, "barcodebert").encode_column(column)
    if isinstance(column, list | np.ndarray):
        with pytest.raises(ValueError, match=r"2 of 4 barcodes are missing \(row 1, 3\)"):
            tokenizer_of(4, "barcodebert")(column)


def test_all_barcodes_missing() -> None:
    with pytest.raises(ValueError, match=r"12 of 12 .*\(row 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...\)"):
        tokenizer_of(4, "barcodebert").encode_column(pa.nulls(12))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("ACGT", r"one string was given. Give \[barcode\]"),
        ([1, 2], "holds strings, but: "),
        (pa.array([1, 2]), "holds strings, but this one holds int64"),
        (pa.array([1, 2]).dictionary_encode(), "holds strings, but this one holds dictionary<values=int64"),
        (pa.array([b"ACGT"]), "holds strings, but this one holds binary"),
    ],
)
def test_columns_without_strings(column: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tokenizer_of(4, "barcodebert").encode_column(column)


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (-1, "The offset -1 is negative"),
        ([0, -2], "The offset -2 is negative"),
        ([0, 1, 2], r"shape \(3,\); give one number, or one for each of the 2 rows"),
        (0.5, "must be integers, but has the type float64"),
        (True, "must be integers, but has the type bool"),
    ],
)
def test_bad_offsets(offset: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer_of(4, "barcodebert").encode_column(["ACGT", "ACGT"], offset)

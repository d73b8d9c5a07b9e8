"""Masking: which k-mers are masked and labelled, how often, and reproducible draws."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch

from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training.draws import uniform
from bioscan_hf.training.masking import MaskedKmerCollator, Masking


@cache
def tokenizer(k=3, vocabulary="barcodebert", max_nucleotides=60):
    return KmerTokenizer(k=k, vocabulary=vocabulary, max_nucleotides=max_nucleotides)


def make(own=None, **options):
    """A collator of 3-mers, or of another tokenizer."""
    masking = {name: options.pop(name) for name in list(options) if name in Masking.__dataclass_fields__}
    return MaskedKmerCollator(own or tokenizer(), Masking(**masking), **options)


def rows(count=8, length=60):
    draws = np.random.default_rng(0).choice(list("ACGT"), (count, length))
    return [{"dna_barcode": "".join(letters)} for letters in draws]


def plain(features, **options):
    """Tokens without masks, (B, L)."""
    ids, _ = tokenizer(**options).encode_column([row["dna_barcode"] for row in features])
    return torch.from_numpy(ids)


def test_only_masked_kmers_change_and_only_they_are_labels():
    features = rows()
    batch = make(random_offset=False, seed=0)(features)
    ids = plain(features)
    masked = batch["input_ids"] == 0
    assert {name: (value.dtype, tuple(value.shape)) for name, value in batch.items()} == {
        name: (torch.int64, (8, 20)) for name in ("input_ids", "attention_mask", "labels")
    }
    assert 40 < masked.sum() < 120  # 160 k-mers at 0.5: 80 expected, standard deviation 6.3
    assert torch.equal(batch["input_ids"][~masked], ids[~masked])
    assert torch.equal(batch["labels"], ids.masked_fill(~masked, -100))


def test_the_published_objective_labels_visible_kmers_too():
    features = rows()
    masked, valid = (make(random_offset=False, loss_on=loss_on, seed=0)(features) for loss_on in ("masked", "valid"))
    assert torch.equal(masked["input_ids"], valid["input_ids"])
    assert torch.equal(valid["labels"], plain(features))


@pytest.mark.parametrize(
    "vocabulary", ["barcodebert", "barcodebert-n", "barcodebert-cls", "barcodebert-2023", "clibd"]
)
def test_only_kmers_of_the_barcode_are_maskable(vocabulary):
    """With k = 3: ACG, aaa and TTT are; GNT, an incomplete k-mer, padding and special tokens are not."""
    own = tokenizer(vocabulary=vocabulary)
    collator = make(own, mask_ratio=1.0, random_offset=False, seed=0)
    batch = collator([{"dna_barcode": "ACGGNTaaaTTTAC"}, {"dna_barcode": "AC"}])
    first = int(vocabulary in ("clibd", "barcodebert-cls"))
    acg, aaa, ttt = own.convert_tokens_to_ids(["ACG", "AAA", "TTT"])
    expected = torch.full((2, 20 + first), -100)
    expected[0, first] = acg
    expected[0, first + 2] = aaa
    expected[0, first + 3] = ttt
    assert torch.equal(batch["labels"], expected)
    mask_id = 0 if vocabulary.startswith("barcodebert") and "2023" not in vocabulary else 1
    assert (batch["input_ids"][expected != -100] == mask_id).all()


def test_the_mask_id_is_an_option():
    batch = make(mask_ratio=1.0, mask_token_id=7, seed=0)(rows())
    assert (batch["input_ids"][batch["labels"] != -100] == 7).all()


def test_shares_of_replacements():
    """0.8 the mask, 0.1 another k-mer, 0.1 unchanged, of 24,000 masked: standard deviation 0.0026 and 0.0019."""
    features = rows(1200)
    collator = make(mask_ratio=1.0, random_offset=False, mask_token_share=0.8, random_token_share=0.1, seed=0)
    batch = collator(features)
    ids, replaced = batch["labels"], batch["input_ids"]
    other = (replaced != 0) & (replaced != ids)
    assert (replaced == 0).float().mean().item() == pytest.approx(0.8, abs=0.013)
    assert other.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (replaced == ids).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert set(replaced[other].tolist()) == set(range(2, 66))


def test_reading_frames_are_drawn_evenly():
    """Each row is read from its first, second or third nucleotide on: 400 of 1,200 each, standard deviation 16."""
    features = rows(1200)
    batch = make(mask_ratio=1e-9, loss_on="valid")(features)
    counts = []
    for offset in range(3):
        ids, _ = tokenizer().encode_column([row["dna_barcode"] for row in features], offset=offset)
        counts.append((batch["input_ids"] == torch.from_numpy(ids)).all(1).sum().item())
    assert sum(counts) == 1200 and all(abs(count - 400) < 80 for count in counts)


def test_mask_ratio_is_a_probability():
    """0.15 of 24,000 k-mers: standard deviation 0.0023."""
    batch = make(mask_ratio=0.15, random_offset=False, seed=0)(rows(1200))
    assert (batch["labels"] != -100).float().mean().item() == pytest.approx(0.15, abs=0.012)


def test_draws_depend_only_on_seed_epoch_and_barcode():
    """They are the same alone, in another order, in a pickled copy, and after other draws of torch."""
    features = rows()
    collator = make(seed=3, mask_token_share=0.5, random_token_share=0.3)
    batch = collator(features)
    torch.rand(5)
    reverse = pickle.loads(pickle.dumps(collator))(features[::-1])
    alone = collator(features[2:3])
    for name, value in batch.items():
        assert torch.equal(reverse[name].flip(0), value)
        assert torch.equal(alone[name], value[2:3])


def test_seeds_epochs_and_barcodes_differ():
    features = rows()
    collator = make(random_offset=False, seed=3)
    first = collator(features)["input_ids"] == 0
    collator.set_epoch(1)
    second = collator(features)["input_ids"] == 0
    third = make(random_offset=False, seed=4)(features)["input_ids"] == 0
    for one, other in ((first, second), (first, third), (second, third), (first, first.roll(1, 0))):
        assert 40 < (one != other).sum() < 120  # half of 160 differ between independent masks
    collator.set_epoch(0)
    assert torch.equal(collator(features)["input_ids"] == 0, first)


def test_random_numbers_are_splitmix64():
    """The first outputs of the authors' C code with state 0, divided by 2**64."""
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [(output >> 11) / 2**53 for output in outputs]
    keys = np.array([5, 0], np.uint64)
    assert uniform(keys, 0, 3)[1].tolist() == expected
    assert uniform(keys, 1, 2)[1].tolist() == expected[1:]


def test_cut_padding_changes_no_mask():
    """Rows of 60, 31 and 14 nucleotides have 20, 10 and 4 tokens; without padding there is no attention mask."""
    features = [
        {"dna_barcode": row["dna_barcode"][:length]} for row, length in zip(rows(3), (60, 31, 14), strict=True)
    ]
    whole = make(random_offset=False)
    for part, length in (
        (features, 20),
        (features[1:], 10),
        (features[2:], 4),
    ):
        batch = make(random_offset=False, cut_padding=True)(part)
        assert batch["input_ids"].shape == (len(part), length)
        for name, value in batch.items():
            assert torch.equal(value, whole(part)[name][:, :length])
    assert "attention_mask" not in batch


def test_weighted_and_next_labels():
    """Labels of "weighted" are those of "valid"; "next" masks nothing and leaves out the first k-mer."""
    features, ids = rows(), plain(rows())
    weighted, nothing = (
        make(random_offset=False, loss_on=loss_on, seed=0)(features) for loss_on in ("weighted", "next")
    )
    assert torch.equal(weighted["labels"], ids) and torch.equal(weighted["masked"], weighted["input_ids"] == 0)
    assert torch.equal(nothing["input_ids"], ids)
    assert torch.equal(nothing["labels"][:, 1:], ids[:, 1:]) and (nothing["labels"][:, 0] == -100).all()


def test_all_next_labels_of_barcodes_padded_at_the_start():
    """Padding, and a k-mer with N, are labels as well, but for the first position; they are never masked or cut."""
    own = KmerTokenizer(k=3, vocabulary="barcodemamba", max_nucleotides=60)
    features = [{"dna_barcode": "ACGNAAACG"}, {"dna_barcode": "ACG" * 10}]
    options = {"random_offset": False, "cut_padding": True, "mask_ratio": 1.0}
    everything, kmers, masked = (
        make(own, loss_on=name, **options)(features) for name in ("next-all", "next", "masked")
    )
    assert everything["labels"].shape == everything["input_ids"].shape == (2, 20)
    acg = 3 + 0b000110  # A, C and G are 0, 1 and 2
    assert everything["input_ids"][0].tolist() == [2] * 17 + [acg, 2, acg]
    assert torch.equal(everything["labels"][:, 1:], everything["input_ids"][:, 1:])
    assert everything["labels"][:, 0].tolist() == [-100, -100]
    assert kmers["labels"][0].tolist() == [-100] * 17 + [acg, -100, acg]
    assert masked["input_ids"][0].tolist() == [2] * 17 + [0, 2, 0]
    assert all(batch["attention_mask"].all() for batch in (everything, kmers, masked))


def test_labels_of_taxa_and_the_cls_token():
    """[CLS] is before each barcode, and is neither masked nor predicted; a missing label stays negative."""
    own = tokenizer(vocabulary="barcodebert-cls")
    features = [row | {"taxon_label": label} for row, label in zip(rows(3), (4, -100, 0), strict=True)]
    batch = make(own, mask_ratio=1.0, random_offset=False, loss_on="valid", label="taxon_label")(features)
    assert batch["taxon_labels"].tolist() == [4, -100, 0]
    assert (batch["input_ids"][:, 0] == 2).all() and not batch["input_ids"][:, 1:].any()
    assert (batch["labels"][:, 0] == -100).all() and (batch["labels"][:, 1:] >= 3).all()


def letters_of(ids, own):
    """Barcodes of token ids (B, L), with N for unknown tokens."""
    table = own.convert_ids_to_tokens(list(range(len(own))))
    return [
        "".join(table[i] if len(table[i]) == own.k and "[" not in table[i] else "N" * own.k for i in row)
        for row in ids
    ]


def test_the_published_masks(reference, monkeypatch):
    """With the published random numbers, the published input and targets, whose classes start at the first k-mer."""
    folder = reference / "barcodebert"
    data = np.load(folder / "mlm.npz")
    monkeypatch.setattr("bioscan_hf.training.masking.uniform", lambda keys, first, count: data["eval_rand"])
    barcodes = folder.json("mlm.json")["sequences"][: len(data["input_ids"])]
    own = KmerTokenizer(k=4)
    batch = make(own, random_offset=False, loss_on="valid")([{"dna_barcode": b} for b in barcodes])
    assert np.array_equal(batch["input_ids"], data["masked_input"])
    labelled = (batch["labels"] != -100).numpy()
    assert np.array_equal(labelled, data["predicted_positions"])
    assert np.array_equal((batch["labels"] - 2).numpy()[labelled], data["targets"][labelled])


def test_the_masks_of_2023(reference, monkeypatch):
    """Id 1 replaces half of the known k-mers, every position is a label, and there is no attention mask."""
    data = np.load(reference / "barcodebert/mlm_workshop2023.npz")
    monkeypatch.setattr("bioscan_hf.training.masking.uniform", lambda keys, first, count: data["rand"])
    own = KmerTokenizer(k=3, vocabulary="barcodebert-2023")
    features = [{"dna_barcode": barcode} for barcode in letters_of(data["batch"], own)]
    batch = make(own, random_offset=False, loss_on="all", attend_padding=True)(features)
    assert set(batch) == {"input_ids", "labels"}
    assert np.array_equal(batch["labels"], data["batch"])
    assert np.array_equal(batch["input_ids"], data["masked_input"]) and (batch["input_ids"] == 1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.0}, r"mask_ratio is 0.0. Give a probability in \(0, 1\]"),
        ({"mask_ratio": 1.5}, "mask_ratio is 1.5"),
        ({"loss_on": "each"}, "Unknown loss_on 'each'. Choose one of masked, valid, weighted, all"),
        ({"loss_on": "all", "cut_padding": True}, "Turn cut_padding off"),
        ({"attend_padding": True, "cut_padding": True}, "Turn cut_padding off"),
        (
            {"mask_token_share": 0.8, "random_token_share": 0.3},
            "mask_token_share is 0.8 and random_token_share is 0.3",
        ),
        ({"random_token_share": -0.1}, "neither is negative"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_missing_barcode_is_refused():
    with pytest.raises(ValueError, match="Rows without a barcode: 1 of 2."):
        make(seed=0)([{"dna_barcode": None}, {"dna_barcode": "ACGT"}])

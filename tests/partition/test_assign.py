"""The partition into splits: sizes, placeholder names, equal barcodes, what a partition must keep, and parity."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from partition_rules import check_partition, split_summary

from bioscan_hf import schema as taxonomy
from bioscan_hf.partition.assign import make_splits
from bioscan_hf.partition.counts import count_splits
from bioscan_hf.partition.draws import (
    TEST_RULE,
    VAL_RULE,
    VAL_UNSEEN_RULE,
    _draw_barcodes,
    max_test_barcodes,
    max_test_rows,
    target_test_rows,
)
from bioscan_hf.partition.overlap import staggered
from bioscan_hf.partition.placeholders import placeholder_genera, placeholder_species
from bioscan_hf.partition.relabel import commonest

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "partition_published.json"


def table_of(groups, **columns):
    """A table of (genus, species, barcode, rows) groups, in an order that mixes them."""
    rows = [group[:3] for group in groups for _ in range(group[3])]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    genus, species, barcode = zip(*rows, strict=True) if rows else ((), (), ())
    text = {"genus": genus, "species": species, "dna_barcode": barcode}
    return pa.table(
        {"processid": [f"P{i:05d}" for i in range(len(rows))]}
        | {name: pa.array(values, pa.string()) for name, values in text.items()}
        | columns
    )


def letters(i):
    """The barcode number `i`, of 6 nucleotides."""
    return "".join("ACGT"[i // 4**place % 4] for place in range(6))


def open_world():
    """40 species of 4 genera, 24 rows in 8 barcodes each; 6 of them have placeholder names."""
    groups = []
    for g, genus in enumerate(("Aphis", "Bradysia", "Fannia", "Idaea")):
        for i in range(10):
            name = f"{genus} sp. {i}BIO" if i < 2 and g < 3 else f"{genus} {'abcdefghij'[i]}us"
            groups += [(genus, name, letters(80 * g + 8 * i + j), 3) for j in range(8)]
    return table_of(groups)


def rows_by_split(table):
    return Counter(table["split"].to_pylist())


def test_sizes():
    """The three functions at their corners. 8 rows: 4 + 0/4 = 4. 20: 4 + 12/4 = 7, and 4 + 12/3 = 8 at most. 92: 4 +
    84/4 = 25, where test is capped. 8 barcodes: 1 + 6/3 = 3. val aims at 5 % of 20 rows or more, val_unseen at 20 % of
    any number, each with twice that at most."""
    assert [target_test_rows(n) for n in (0, 7, 8, 12, 20, 92, 1000)] == [0, 0, 4, 5, 7, 25, 25]
    assert [max_test_rows(n) for n in (7, 8, 20)] == [0, 4, 8]
    assert [max_test_barcodes(n) for n in (1, 2, 3, 5, 8)] == [0, 0, 1, 2, 3]
    assert [VAL_RULE.target(19), VAL_RULE.target(20), VAL_RULE.max_rows(20), VAL_RULE.max_barcodes(40)] == [0, 1, 2, 2]
    assert [VAL_UNSEEN_RULE.target(5), VAL_UNSEEN_RULE.max_rows(5), VAL_UNSEEN_RULE.max_barcodes(10)] == [1, 2, 2]


@pytest.mark.parametrize(
    ("species", "genus", "expected"),
    [
        ("Megaselia sp. 3BIO", "Megaselia", True),
        ("Oxysarcodexia Malaise4749", "Oxysarcodexia", True),
        ("Oxysarcodexia mallaizee", "Oxysarcodexia", True),
        ("Megaselia cf. x", "Megaselia", True),
        ("Ethmia Janzeni", "Ethmia", True),
        ("Aus aff bus", "Aus", True),
        ("Aus affinis B", "Aus", True),
        ("Aus n sp", "Aus", True),
        ("Aus gen bus", "Aus", True),
        ("Aus sp bus", "Aus", True),
        ("Aus sp", "Aus", True),
        ("Aus spp", "Aus", True),
        ("Aus nsp", "Aus", True),
        ("Aus indet", "Aus", True),
        ("Aus cf bus", "Aus", True),
        ("Aus nr bus", "Aus", True),
        ("Aus bus_cus", "Aus", True),
        ("Aus bus?", "Aus", True),
        ("aus bus", "Aus", True),
        ("Aus bus", "Malaise", True),
        ("Aus bus", "aus", True),
        ("Aus bus", "unassigned Aidae", False),
        ("Aus bus", "unclassified", False),
        ("Gnamptogenys sulcata", "Gnamptogenys", False),
        ("Aus affinis", "Aus", False),
        ("Aus bus-cus", "Aus", False),
        ("Aus spinosus", "Aus", False),
        ("Aus nearcticus", "Aus", False),
        ("Aus specialis", "Aus", False),
    ],
)
def test_placeholder_names(species, genus, expected):
    """The published rule on the names that tell its parts apart."""
    assert (placeholder_species([species]) | placeholder_genera([genus])).tolist() == [expected, False]


def test_published_script():
    """The partition is the published script's, row for row, on a clean table.

    The fixture holds what the script gives with equal barcode counts sorted stably, so it guards each rule, the order
    of the random draws, and all eight splits: one wrong draw would shift all later ones.
    """
    groups = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    expected = {barcode: split for _, _, barcode, _, split in groups}
    assert set(expected.values()) == set(taxonomy.SPLITS)
    result = make_splits(table_of(groups))
    assert result["split"].to_pylist() == [expected[barcode] for barcode in result["dna_barcode"].to_pylist()]
    check_partition(result)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(0, 99))
def test_a_draw_leaves_a_barcode(sizes, seed):
    """No rule takes a species' last barcode (it would then be in test but not in train), nor more than it may."""
    sizes = np.sort(sizes)
    for rule in (TEST_RULE, VAL_RULE, VAL_UNSEEN_RULE):
        taken = _draw_barcodes(sizes, rule, np.random.default_rng(seed))
        n = sizes.sum()
        assert len(set(taken)) == len(taken) < len(sizes)
        assert sizes[taken].sum() <= rule.max_rows(n) or (len(taken) == 1 and sizes[0] < n / 2)


GENERA = (*["Aphis"] * 9, "Bradysia", "Malaise", None)
SPECIES = ("Aphis bus", "Aphis cus", "Aphis sp. 1", "Bradysia dus", "Bradysia sp. 2", "Bradysia BIO", "", None)
barcodes = st.builds(lambda i, n: "N" * n + letters(i) + "N" * n, st.integers(0, 200), st.integers(0, 1))
group = st.tuples(st.sampled_from(GENERA), st.sampled_from(SPECIES), barcodes, st.integers(1, 12))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(group, max_size=40), st.integers(0, 3), st.sampled_from((0.0, 0.3)), st.sampled_from((0.0, 0.5)))
def test_always_a_partition(groups, seed, hold_out_species, unlabel):
    """Whatever the labels (species in two genera, equal barcodes of several species, none at all): a valid partition,
    rows in their order, and the same for every order of the rows."""
    table = table_of(groups)
    options = {"seed": seed, "hold_out_species": hold_out_species, "unlabel": unlabel}
    result = make_splits(table, **options)
    check_partition(result)
    assert result["processid"].equals(table["processid"])
    assert sum(part["samples"] for part in split_summary(result)) == len(table)
    turned = make_splits(table.take(np.arange(len(table))[::-1]), **options)
    assert turned.take(np.arange(len(table))[::-1]).equals(result)


def test_seed():
    """Another seed draws other barcodes, and splits of about the same size."""
    first, again, other = (make_splits(open_world(), seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert first["split"].to_pylist() != other["split"].to_pylist()
    assert rows_by_split(first).keys() == rows_by_split(other).keys()


def test_equal_barcodes_get_equal_labels():
    """Rows P1 and P2 outvote P3; P0 has no name. The taxonomy of P0 and P3 comes from P1, the first with the species,
    except the order of P0, which P1 does not know. The input's names are kept, other columns untouched."""
    table = pa.table(
        {
            "processid": ["P3", "P0", "P2", "P1"],
            "taxon": ["Bradysia dus", "Diptera", "Aphis bus", "Aphis bus"],
            "order": ["Diptera", "Hemiptera", None, ""],
            "family": ["Sciaridae", None, "Aphididae", "Aphididae"],
            "subfamily": pa.array(["Sciarinae", None, "Aphidinae", None], pa.string()),
            "genus": ["Bradysia", None, "Aphis", "Aphis"],
            "species": ["Bradysia dus", None, "Aphis bus", "Aphis bus"],
            "dna_barcode": ["NACGT", "ACGTN", "ACGT", "NNACGTNN"],
            "coord-lat": [1.0, None, 2.0, 3.0],
        }
    )
    result = make_splits(table)
    assert result["species"].to_pylist() == result["taxon"].to_pylist() == ["Aphis bus"] * 4
    assert result["genus"].to_pylist() == ["Aphis"] * 4
    assert result["subfamily"].to_pylist() == [None, None, "Aphidinae", None]
    assert result["family"].to_pylist() == ["Aphididae"] * 4
    assert result["order"].to_pylist() == ["Diptera", "Hemiptera", None, None]
    assert result["original_species"].to_pylist() == table["species"].to_pylist()
    assert result["original_genus"].to_pylist() == table["genus"].to_pylist()
    assert result["original_subfamily"].to_pylist() == table["subfamily"].to_pylist()
    assert result["coord-lat"].equals(table["coord-lat"]) and result["dna_barcode"].equals(table["dna_barcode"])
    assert result["split"].to_pylist() == ["train"] * 4
    assert result.column_names == [
        *table.column_names,
        "original_subfamily",
        "original_genus",
        "original_species",
        "split",
    ]


def test_votes():
    """A scientific name wins over any number of placeholders; of equally common ones, the first in the alphabet."""
    table = table_of(
        [
            ("Aphis", "Aphis bus", "ACA", 1),
            ("Aphis", "Aphis sp. 1", "ACA", 3),
            ("Aphis", "Aphis cus", "GTG", 2),
            ("Aphis", "Aphis bus", "GTG", 2),
        ]
    )
    assert set(make_splits(table)["species"].to_pylist()) == {"Aphis bus"}


def test_filled_rows_do_not_shift_the_draw():
    """Rows that get their species from an equal barcode follow it to its split and count for nothing."""
    bare = open_world()
    extra = [(None, None, barcode, 2) for barcode in dict.fromkeys(bare["dna_barcode"].to_pylist())]
    extra = table_of(extra).set_column(0, "processid", pa.array([f"X{i}" for i in range(2 * len(extra))]))
    split = make_splits(pa.concat_tables([bare, extra]))
    assert split["split"][: len(bare)].to_pylist() == make_splits(bare)["split"].to_pylist()
    assert "pretrain" not in rows_by_split(split)


def test_species_of_a_foreign_genus_is_held_out():
    """Aphis sp. 1 has 8 rows in a seen genus and one in another, which would get in among the unseen genera with it.
    Aphis sp. 2 has 8 in the seen genus and is unseen; Aphis sp. 3 has 7 and is not."""
    table = table_of(
        [
            ("Aphis", "Aphis bus", "AAA", 2),
            ("Aphis", "Aphis sp. 1", "CCC", 8),
            ("Bradysia", "Aphis sp. 1", "CCG", 1),
            ("Aphis", "Aphis sp. 2", "GGG", 8),
            ("Aphis", "Aphis sp. 3", "TTT", 7),
        ]
    )
    result = make_splits(table)
    check_partition(result)
    found = dict(zip(result["species"].to_pylist(), result["split"].to_pylist(), strict=True))
    assert found == {
        "Aphis bus": "train",
        "Aphis sp. 1": "other_heldout",
        "Aphis sp. 2": "key_unseen",
        "Aphis sp. 3": "other_heldout",
    }


def test_split_and_chunk_are_replaced():
    """Columns already there keep their place and get new values; chunk is null where the split has no chunks."""
    table = open_world()
    table = table.add_column(0, "chunk", pa.nulls(len(table))).add_column(
        1, "split", pa.array(["nonsense"] * len(table))
    )
    result = make_splits(table)
    assert result.column_names == table.column_names
    pairs = zip(result["processid"].to_pylist(), result["split"].to_pylist(), strict=True)
    assert result["chunk"].to_pylist() == [taxonomy.chunk(*pair) or None for pair in pairs]
    assert result["split"].equals(make_splits(open_world())["split"])
    assert make_splits(result).equals(result)
    ids = pa.array([f"Ñ{i}" for i in range(len(table))])
    assert make_splits(table.set_column(table.column_names.index("processid"), "processid", ids))["chunk"].null_count


def test_simulation():
    """4 x 10 species less 6 placeholders = 34 scientific ones; round(0.25 * 34) = round(8.5) = 8 are held out, their
    names kept. They and the placeholders have 24 rows each, of seen genera, so all 14 are unseen. Of the other 26 * 24
    = 624 rows, half lose their labels."""
    table = open_world().append_column("taxon", open_world()["species"])
    table = table.append_column("family", pa.array(["Aidae"] * len(table)))
    result = make_splits(table, hold_out_species=0.25, unlabel=0.5)
    check_partition(result)
    parts = {part["split"]: part for part in split_summary(result)}
    assert parts["key_unseen"]["species"] == 14
    assert parts["pretrain"]["samples"] == 312
    assert result["original_species"].equals(table["species"]) and result["original_genus"].equals(table["genus"])
    for row in result.to_pylist():
        hidden = row["split"] == "pretrain"
        assert row["species"] == (None if hidden else row["original_species"])
        assert row["genus"] == (None if hidden else row["original_genus"])
        assert row["taxon"] == ("Aidae" if hidden else row["original_species"])
    assert (
        make_splits(table, 1, hold_out_species=0.25, unlabel=0.5)["split"].to_pylist() != result["split"].to_pylist()
    )


def test_hold_out_keeps_a_species_of_each_genus():
    """One genus of three species and one of one: with 0.9, round(3.6) = 4 are wanted, but only two can go."""
    names = (("Aphis", "Aphis bus"), ("Aphis", "Aphis cus"), ("Aphis", "Aphis dus"), ("Fannia", "Fannia eus"))
    table = table_of([(*name, "ACGT"[i] * 5, 9) for i, name in enumerate(names)])
    result = make_splits(table, hold_out_species=0.9)
    check_partition(result)
    assert rows_by_split(result) == {"train": 18, "key_unseen": 18}
    assert "original_species" not in result.column_names


def test_empty_table():
    result = make_splits(table_of([]))
    assert len(result) == 0 and result["split"].type == pa.string()
    assert [part["samples"] for part in split_summary(result)] == [0] * 8


def test_summary():
    """Barcodes are counted without the N at their ends: ANC and NANC are one."""
    table = table_of([("Aphis", "Aphis bus", "ANC", 2), ("Aphis", "Aphis bus", "NANC", 1), (None, None, "G", 4)])
    parts = {part.pop("split"): part for part in count_splits([make_splits(table)])}
    assert list(parts) == ["pretrain", "train", "total"]
    assert parts["train"] == {"samples": 3, "barcodes": 1, "species": 1}
    assert parts["pretrain"] == {"samples": 4, "barcodes": 1, "species": 0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("A", "A a", "AC", "train"), ("A", "A a", "NAC", "test")], "'AC' is in several splits"),
        ([("A", "A a", "AC", "pretrain")], "'A a' is in pretrain"),
        ([("A", None, "AC", "train")], "None is in train"),
        ([("A", "A a", "AC", "train"), ("A", "A a", "GT", "key_unseen")], "'A a' is in several of seen"),
        ([("A", "A a", "AC", "train"), ("A", "A a", "GT", "other_heldout")], "'A a' is in several of seen"),
        ([("A", "A a", "AC", "val")], "'A a' is not in train"),
        ([("A", "A a", "AC", "train"), ("A", "A b", "GT", "test_unseen")], "'A b' is not in key_unseen"),
        ([("A", "A a", "AC", "train"), ("B", "B b", "GT", "key_unseen")], "'B' has no seen species"),
        ([("A", "A a", "AC", None)], "the split None"),
    ],
)
def test_the_rules_can_fail(rows, message):
    """Each rule of `check_partition`, broken alone."""
    columns = zip(*rows, strict=True)
    names = ("genus", "species", "dna_barcode", "split")
    table = {name: pa.array(values, pa.string()) for name, values in zip(names, columns, strict=True)}
    with pytest.raises(AssertionError, match=message):
        check_partition(pa.table(table))


def test_bad_input():
    """Each error names the rows or the value, and what is allowed."""
    table = open_world()
    with pytest.raises(ValueError, match=r"no column 'genus', 'species'\. A partition needs processid"):
        make_splits(table.drop_columns(["genus", "species"]))
    with pytest.raises(ValueError, match="1 processid occurs more than once: 'P00000'"):
        make_splits(pa.concat_tables([table, table.slice(0, 1)]))
    with pytest.raises(ValueError, match="1 rows have no processid"):
        make_splits(pa.concat_tables([table.slice(1), table.slice(0, 1).set_column(0, "processid", pa.array([""]))]))
    for barcode in ("", "NNN", None):
        bad = table.slice(0, 1).set_column(3, "dna_barcode", pa.array([barcode], pa.string()))
        with pytest.raises(ValueError, match="1 of 960 rows have no barcode .*'P00000'"):
            make_splits(pa.concat_tables([table.slice(1), bad]))
    for share in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=r"unlabel is .*in \[0, 1\)"):
            make_splits(table, unlabel=share)
        with pytest.raises(ValueError, match=r"hold_out_species is .*in \[0, 1\)"):
            make_splits(table, hold_out_species=share)
    with pytest.raises(ValueError, match="seed is -1"):
        make_splits(table, -1)
    with pytest.raises(ValueError, match="'original_species'.*Start from the original table"):
        make_splits(make_splits(table, unlabel=0.5))


def test_any_kind_of_data_is_taken_and_given_back():
    """Arrow, with dictionaries, views or large strings; a Dataset; a DataFrame with its index."""
    table = open_world()
    expected = make_splits(table)["split"].to_pylist()
    for kind in (pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.large_string()):
        columns = [column.cast(kind) for column in table.columns]
        assert make_splits(pa.table(columns, table.column_names))["split"].to_pylist() == expected
    data = make_splits(Dataset(table))
    assert isinstance(data, Dataset) and data["split"][:] == expected
    frame = table.to_pandas().set_index(np.arange(len(table)) * 2)
    result = make_splits(frame)
    assert result["split"].tolist() == expected and result.index.equals(frame.index)
    with pytest.raises(TypeError, match="not a list"):
        make_splits([1])


def test_spellings_of_a_barcode_are_one():
    """Each barcode in five spellings, 8 rows of each: no barcode is in two splits."""
    spellings = [str, str.lower, lambda b: b.replace("T", "U"), lambda b: f"--{b}-", lambda b: f"N{b[:3]} {b[3:]}NN"]
    groups = [("Aphis", "Aphis bus", spell(letters(i)), 1) for i in range(40) for spell in spellings]
    result = make_splits(table_of(groups))
    check_partition(result)
    found = defaultdict(set)
    for barcode, split in zip(result["dna_barcode"].to_pylist(), result["split"].to_pylist(), strict=True):
        found[barcode.strip("N")].add(split)
    assert len(found) == 40 and {len(splits) for splits in found.values()} == {1}
    assert {"train", "test"} <= set(result["split"].to_pylist())


@pytest.mark.parametrize(
    "marker", ["NA", "nan", "N/A", "None", "null", "-", "n", "?", "Unknown", "not_classified", "", "sp.", "NO MATCH"]
)
def test_markers_are_no_species(marker):
    groups = [("Aphis", "Aphis bus", letters(i), 1) for i in range(9)]
    result = make_splits(table_of([*groups, ("Aphis", marker, letters(99), 9)]))
    check_partition(result)
    assert rows_by_split(result)["pretrain"] == 9
    with pytest.raises(ValueError, match="9 of 18 rows have no barcode"):
        make_splits(table_of([*groups, ("Aphis", None, marker, 9)]))


@pytest.mark.parametrize(
    "name",
    ["Apis  mellifera", "Apis\xa0mellifera", " Apis mellifera ", "Apis mellifera Linnaeus, 1758", "Apis mellifera L."]
    + ["Apis mellifera (Linnaeus, 1758)", "Apis (Apis) mellifera Linnaeus", "Apis mellifera (L.)"],
)
def test_a_name_has_one_form(name):
    told = []
    groups = [("Apis", given, letters(i), 1) for i in range(12) for given in ("Apis mellifera", name)]
    result = make_splits(
        table_of([group[:2] + (f"{group[2]}{'AC'[i % 2]}", 1) for i, group in enumerate(groups)]), tell=told.append
    )
    assert set(result["species"].to_pylist()) == {"Apis mellifera"}
    assert set(result["split"].to_pylist()) <= {"train", "val", "test"}
    assert told[-1].startswith("WARNING: all rows with a species have the same one")


def test_what_the_rules_did_is_told():
    told = []
    make_splits(table_of([("Aphis", "Aphis sp. 1BIO", letters(i), 1) for i in range(9)]), tell=told.append)
    assert told[0].startswith("Placeholders by the published rule (sp., digits, capitals inside): 1 of 1 species")
    assert told[-1].startswith("WARNING: no species has a scientific name, so all rows with a species are held out")
    make_splits(table_of([("Aphis", None, letters(i), 1) for i in range(9)]), tell=told.append)
    assert told[-1].startswith("WARNING: no row has a species")


def test_overlaps_with_references_are_counted_and_moved():
    """Half of the barcodes are trimmed copies of others, at either end, and N may stand around them."""
    rng = np.random.default_rng(0)
    whole = ["".join(rng.choice(list("ACGT"), 80)) for _ in range(60)]
    trimmed = [barcode[5:] if i % 2 else f"N{barcode[:-7]}" for i, barcode in enumerate(whole[:30])]
    table = table_of([("Aphis", "Aphis bus", barcode, 1) for barcode in whole + trimmed])
    told = []
    plain = make_splits(table, tell=told.append)
    cleaned = make_splits(table, no_overlap=True, tell=told.append)
    check_partition(cleaned)
    barcodes = cleaned["dna_barcode"].to_pylist()

    def leaks(result):
        of = {barcode.strip("N"): split for barcode, split in zip(barcodes, result["split"].to_pylist(), strict=True)}
        train = [barcode for barcode, split in of.items() if split == "train"]
        return sum(any(a in b or b in a for b in train) for a, split in of.items() if split == "test")

    assert leaks(plain) > 0 and leaks(cleaned) == 0
    number = rows_by_split(plain)["test"]
    assert f"{leaks(plain)} of {number} barcodes of test ({leaks(plain) / number:.1%}) are part of" in " ".join(told)
    moved = [(a, b) for a, b in zip(plain["split"].to_pylist(), cleaned["split"].to_pylist(), strict=True) if a != b]
    assert moved and set(moved) <= {("test", "train"), ("val", "train")}


def overlap_by_search(query, references):
    """Whether half of the query, and 50 letters, is the beginning or end of a reference."""
    least = max(50, -(-len(query) // 2))
    lengths = [range(least, min(len(query), len(one)) + 1) for one in references]
    return any(
        query[:n] == one[-n:] or query[-n:] == one[:n]
        for one, some in zip(references, lengths, strict=True)
        for n in some
    )


@pytest.mark.parametrize("seed", range(5))
def test_staggered_finds_every_overlap(seed):
    """Against the plain search, for sequences of several lengths, with N."""
    rng = np.random.default_rng(seed)
    whole = ["".join(rng.choice(list("ACGTN"), rng.integers(60, 160))) for _ in range(12)]
    queries = [
        one[rng.integers(0, 40) :] + "".join(rng.choice(list("ACGT"), rng.integers(0, 30))) for one in whole[:8]
    ]
    references = [*(one[: len(one) - rng.integers(0, 30)] for one in whole), "ACG"]
    expected = [overlap_by_search(query, references) for query in queries]
    assert staggered(queries, references).tolist() == expected and sum(expected)
    assert not staggered([], references).any() and not staggered(queries, []).any()


def test_staggered_reads_are_counted_and_stay():
    """Half of the barcodes are reads of the same 80 letters as others, 12 letters further: told, never moved."""
    rng = np.random.default_rng(0)
    genes = ["".join(rng.choice(list("ACGT"), 92)) for _ in range(60)]
    table = table_of([("Aphis", "Aphis bus", gene[shift:][:80], 1) for gene in genes for shift in (0, 12)])
    told = []
    plain = make_splits(table, tell=told.append)
    assert make_splits(table, no_overlap=True) == plain
    of = dict(zip(plain["dna_barcode"].to_pylist(), plain["split"].to_pylist(), strict=True))
    pairs = [(of[gene[:80]], of[gene[12:]]) for gene in genes]
    number = sum({a, b} == {"train", "test"} for a, b in pairs)
    size = sum(split == "test" for split in of.values())
    assert (
        f"0 of {size} barcodes of test (0.0%) are part of a reference or contain one; with staggered ones, {number} ("
        in " ".join(told)
    )


def read(path):
    """A CSV with every column as text, nothing but an empty cell missing."""
    names = pa.csv.open_csv(path).schema.names
    options = pa.csv.ConvertOptions(
        strings_can_be_null=True, null_values=[""], column_types={name: pa.string() for name in names}
    )
    return pa.csv.read_csv(path, convert_options=options)


@pytest.mark.realdata
def test_reference_partition(real_data):
    """The published script's result on 43,546 real records, half of them unlabelled: each split within 2 % or 10 rows.

    Compared are the rows that have a species in the reference. Of the others, it drags those along that share a
    barcode with val or test, and leaves those in pretrain that share one with train; here all follow their barcode.

    Counts differ a little because 7 barcodes carry two species there and one here, and one changed species shifts all
    later draws of the generator. With those 7 cleaned, the script gives the very counts found here. Which rows a split
    holds differs more, since barcodes with equally many rows come in another order: Jaccard overlaps were 0.88 train,
    0.52 val, 0.69 test, 0.87 key_unseen, 0.45 val_unseen, 0.71 test_unseen, 1.00 other_heldout. Sorted stably and on
    cleaned labels, the script agrees with this module on every row (test_published_script guards that).
    """
    table, reference = (read(real_data / f"split_reference_{part}.csv.gz") for part in ("input", "output"))
    result = make_splits(table)
    check_partition(result)
    expected, found = defaultdict(set), defaultdict(set)
    assert reference["processid"].equals(result["processid"])
    splits = zip(reference["split"].to_pylist(), result["split"].to_pylist(), strict=True)
    for i, ((there, here), species) in enumerate(zip(splits, reference["species"].to_pylist(), strict=True)):
        if species is not None:
            expected[there].add(i)
            found[here].add(i)
    assert expected.keys() == found.keys() == set(taxonomy.SPLITS) - {"pretrain"}
    for split, rows in expected.items():
        assert abs(len(found[split]) - len(rows)) <= max(10, 0.02 * len(rows)), split
        assert len(found[split] & rows) / len(found[split] | rows) > 0.4, split


@pytest.mark.realdata
def test_real_records_simulated(real_data):
    """On 83,517 real records the two shares are met, and every split that asks for rows gets some.

    Without them all but one species is seen: Ethmia Janzeni, a placeholder by its capital. other_heldout stays empty,
    since every held-out species has at least 8 rows and a seen genus.
    """
    table = read(real_data / "bold_coi5p.csv.gz")
    parts = {part["split"]: part for part in split_summary(make_splits(table))}
    assert parts["pretrain"]["samples"] == 0 and parts["key_unseen"]["species"] == 1
    result = make_splits(table, hold_out_species=0.15, unlabel=0.5)
    check_partition(result)
    rows = rows_by_split(result)
    held_out = sum(rows[split] for split in taxonomy.METASPLITS["unseen"]) + rows["other_heldout"]
    assert rows["pretrain"] == pytest.approx(0.5 * (len(table) - held_out), rel=0.002)
    parts = {part["split"]: part for part in split_summary(result)}
    assert parts["key_unseen"]["species"] == 1 + round(0.15 * 924)
    assert all(rows[split] for split in taxonomy.SPLITS if split != "other_heldout")


def test_labels_of_as_many_barcodes_and_species_as_in_bioscan_5m():
    """Barcodes x species exceed 32 bits there: the ids of barcodes are of 32 bits, and their products are not."""
    species, barcodes = 22_622, 2_486_492
    group = np.array([0, barcodes - 2, barcodes - 1, barcodes - 1], np.int32)
    label = np.array([5, species - 1, 7, 7], np.int64)
    winner = commonest(group, label, np.zeros(species, bool), barcodes)
    assert winner[[0, barcodes - 2, barcodes - 1]].tolist() == [5, species - 1, 7]
    assert (winner >= 0).sum() == 3

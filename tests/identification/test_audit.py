"""The audit of references finds planted faults, and nothing else."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_up_references import records

from bioscan_hf.identification import library as module
from bioscan_hf.identification.audit import FINDINGS, counted
from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.identification.neighbours import neighbours
from bioscan_hf.identification.region import complement


def make(rows):
    table = pa.table({name: pa.array([row[name] for row in rows], pa.large_string()) for name in COLUMNS})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 20)
        return ReferenceLibrary.from_records(Found(table, {"rows": "table"}))


def with_bins(rows):
    """One BIN for each species."""
    names = sorted({row["species"] for row in rows})
    return [{**row, "dna_bin": f"BOLD:AAA{1000 + names.index(row['species'])}"} for row in rows]


@pytest.fixture(scope="module")
def clean():
    return with_bins(records(np.random.default_rng(4), each=5))


def other(rows, row, rank):
    """The first row of another taxon at a rank."""
    return next(found for found in rows if found[rank] != row[rank])


def planted(clean):
    """Rows with one fault each, and the expected (finding, rank) of their ids."""
    rng = np.random.default_rng(5)
    rows, expected = [dict(row) for row in clean], {}

    def change(place, finding, rank=None, **values):
        rows[place] |= values
        expected.setdefault(rows[place]["processid"], set()).add((finding, rank))

    ranks = ("order", "family", "genus", "species")
    far = other(rows, rows[0], "order")
    change(0, "misplaced", "order", **{rank: far[rank] for rank in (*ranks, "dna_bin")})
    expected[rows[0]["processid"]].add(("unlike_species", "species"))
    near = next(r for r in rows if r["order"] == rows[20]["order"] and r["family"] != rows[20]["family"])
    change(20, "misplaced", "family", **{rank: near[rank] for rank in (*ranks, "dna_bin")})
    expected[rows[20]["processid"]].add(("unlike_species", "species"))
    change(40, "homonym", "genus", family="Strangeidae")
    expected[rows[40]["processid"]] |= {("misplaced", "family"), ("bin", "family")}
    change(60, "genus_of_species", "species", species="Otherus alienus")
    expected[rows[60]["processid"]].add(("bin", "species"))
    change(75, "bin", "species", species=f"{rows[75]['genus']} wrongus")
    twin = next(r for r in rows if r["genus"] == rows[90]["genus"] and r["species"] != rows[90]["species"])
    rows[90]["dna_barcode"] = rows[91]["dna_barcode"]
    change(90, "several_names", "species", **{rank: twin[rank] for rank in ("species", "dna_bin")})
    expected[rows[90]["processid"]].add(("misplaced", "species"))
    near = next(r for r in rows if r["family"] == rows[140]["family"] and r["genus"] != rows[140]["genus"])
    change(140, "misplaced", "genus", **{rank: near[rank] for rank in ("genus", "species", "dna_bin")})
    expected[rows[140]["processid"]].add(("unlike_species", "species"))
    near = next(r for r in rows if r["genus"] == rows[150]["genus"] and r["species"] != rows[150]["species"])
    change(150, "misplaced", "species", **{rank: near[rank] for rank in ("species", "dna_bin")})
    change(91, "several_names", "species")
    change(100, "not_coi", dna_barcode="".join(rng.choice(list("ACGT"), 658)))
    change(105, "reversed", dna_barcode=complement(rows[105]["dna_barcode"]))
    change(110, "short", dna_barcode=rows[110]["dna_barcode"][:400])
    shifted, stopped = rows[115]["dna_barcode"], rows[120]["dna_barcode"]
    change(115, "frameshift", dna_barcode=f"{shifted[:300]}G{shifted[300:]}")
    change(120, "stop_codon", dna_barcode=f"{stopped[:301]}TAA{stopped[304:]}")
    return rows, expected


def found_in(table):
    found = {}
    for row in table.to_pylist():
        found.setdefault(row["processid"], set()).add((row["finding"], row["rank"]))
    return found


def test_planted_faults_are_found_and_nothing_else(clean):
    rows, expected = planted(clean)
    table = make(rows).audit()
    assert found_in(table) == expected
    assert {name for names in expected.values() for name, _ in names} == set(FINDINGS)
    numbers = counted(table)
    assert numbers.pop("species_in_several_bins") == 0 and sum(numbers.values()) == len(table)


def test_frameshifts_are_told_from_stop_codons(clean):
    """One in twelve references with a letter more or less: nine of ten are told, none as a mere stop codon."""
    rng = np.random.default_rng(8)
    rows, changed = [dict(row) for row in clean], set()
    for place in range(3, len(rows), 12):
        read, at = rows[place]["dna_barcode"], int(rng.integers(110, 548))
        rows[place]["dna_barcode"] = f"{read[:at]}G{read[at:]}" if place % 2 else read[:at] + read[at + 1 :]
        changed.add(rows[place]["processid"])
    found = found_in(make(rows).audit())
    assert set(found) <= changed and sum(("frameshift", None) in names for names in found.values()) >= 0.9 * len(
        changed
    )
    assert not any(("stop_codon", None) in names for names in found.values())


def test_findings_tell_the_names(clean):
    """Names and numbers of a record whose BIN, or whose sequence, has another name."""
    rows, _ = planted(clean)
    table = make(rows).audit().to_pylist()
    by = {(row["finding"], row["processid"]): row for row in table}
    bins = by["bin", rows[75]["processid"]]
    assert bins["name"] == rows[75]["species"] and bins["other_names"] == clean[75]["species"]
    assert bins["note"] == f"1 of 5 records of {rows[75]['dna_bin']} have this name" and bins["records"] == 1
    order = by["misplaced", rows[0]["processid"]]
    assert (order["name"], order["other_names"]) == (rows[0]["order"], clean[0]["order"])
    assert order["identity"] > 0.98 and order["note"].endswith(f"of nearly the same sequence are {clean[0]['order']}")
    family = by["homonym", rows[40]["processid"]]
    assert family["other_names"] == clean[40]["family"] and "are in the family Strangeidae" in family["note"]
    assert by["short", rows[110]["processid"]]["note"] == "covers 400 of 658 positions of the region"


def test_a_species_of_one_sequence_near_another_is_not_told(clean):
    """Young species are nearly alike: only one that has other records elsewhere is suspicious."""
    rows = [dict(row, dna_bin=None) for row in clean]
    rows[4]["species"] = f"{rows[4]['genus']} novus"
    assert found_in(make(rows).audit()) == {}
    rows[9]["species"] = rows[4]["species"]
    assert ("misplaced", "species") in found_in(make(rows).audit())[rows[9]["processid"]]


def test_a_record_is_not_misplaced_by_a_wrong_one_among_its_equals(clean):
    """Of five equal records, one has a wrong genus: that one is misplaced, and the four others are not."""
    rows = [dict(row, dna_bin=None) for row in clean]
    for row in rows[:5]:
        row["dna_barcode"] = rows[0]["dna_barcode"]
    near = next(r for r in rows if r["family"] == rows[0]["family"] and r["genus"] != rows[0]["genus"])
    rows[3] |= {rank: near[rank] for rank in ("genus", "species")}
    found = [row for row in make(rows).audit().to_pylist() if row["finding"] == "misplaced"]
    assert [row["processid"] for row in found] == [rows[3]["processid"]]
    assert found[0]["note"] == f"4 of 4 records of nearly the same sequence are {rows[0]['genus']}"


def test_clean_references_have_no_findings(clean):
    table = make(clean).audit()
    assert table.to_pylist() == [] and counted(table) == {"species_in_several_bins": 0}
    split = [{**row, "dna_bin": f"{row['dna_bin']}{i % 2}"} for i, row in enumerate(clean)]
    assert counted(make(split).audit())["species_in_several_bins"] == len({row["species"] for row in clean})


def test_without_a_region_names_are_compared(clean):
    """References of mixed lengths have no region; their names and equal sequences are audited."""
    cut = [{**row, "dna_barcode": row["dna_barcode"][: 400 + i]} for i, row in enumerate(clean)]
    cut[3] |= {"family": "Strangeidae"}
    library = make(cut)
    assert library.references.region is None
    assert set(found_in(library.audit())) == {cut[3]["processid"]}


def test_neighbours_are_the_nearest(clean):
    """Of 2,400 vectors in several cells, nearly all of the nearest are found, and never the vector itself."""
    rng = np.random.default_rng(6)
    centres = rng.normal(size=(300, 200))
    x = np.repeat(centres, 8, 0) + 0.1 * rng.normal(size=(2400, 200))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = neighbours(torch.from_numpy(x).to(torch.bfloat16), 7)
    assert found.shape == (2400, 7) and (found != np.arange(2400)[:, None]).all()
    assert (found // 8 == np.arange(2400)[:, None] // 8).mean() > 0.98
    few = neighbours(torch.from_numpy(x[:3]).float())
    assert few.shape == (3, 2)

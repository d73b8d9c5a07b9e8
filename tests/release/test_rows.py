"""Rows of specimens: names of columns, missing values, names of taxa, spelling of barcodes, coordinates."""

import pyarrow as pa
import pytest

from bioscan_hf.labels import Cleaned, are_taxon_names, taxon_name
from bioscan_hf.release.check import read_typed, scan
from bioscan_hf.release.columns import to_types
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.release.rows import Changes, read_rows, row_columns
from bioscan_hf.schema import COLUMNS

BOLD = "processid\trecord_id\tbin_uri\tmarker_code\tgenus\tspecies\tcoord\tnuc\n"


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def rows_of(path, **options):
    return [row for _, table in read_rows(path, **options) for row in table.to_pylist()]


def typed(path, report=None):
    checked = scan(path, *([report] if report else []), unassigned=True)
    found = read_typed(path, checked, *([report] if report else []))
    return [row for _, table in found for row in table.to_pylist()], checked


def test_names_of_bold(tmp_path):
    path = write(tmp_path / "bcdm.tsv", BOLD + "P1-20\t7\tBOLD:A\tCOI-5P\tApis\tApis mellifera\tx\tacgu\n")
    [row] = rows_of(path)
    assert list(row) == [*COLUMNS, "record_id", "marker_code", "coord"] == row_columns(path)
    known = {"processid": "P1-20", "dna_bin": "BOLD:A", "dna_barcode": "ACGT", "genus": "Apis", "record_id": "7"}
    assert known.items() <= row.items() and row["family"] is None and row["split"] is None


def test_minimal_columns_are_enough(tmp_path):
    rows, checked = typed(write(tmp_path / "own.csv", "id;sequence\nP1;ACGT\n"))
    assert checked.counts == {"unassigned": 1} and rows[0]["dna_barcode"] == "ACGT" and rows[0]["species"] is None
    with pytest.raises(ReleaseError, match="has no column 'processid' .or .*; no column 'dna_barcode' .or .*"):
        rows_of(write(tmp_path / "none.csv", "a,b\n1,2\n"))
    with pytest.raises(ReleaseError, match="several columns of sequences: nuc, seq. Rename the right one"):
        rows_of(write(tmp_path / "two.csv", "id,seq,nuc\nP1,A,C\n"))


@pytest.mark.parametrize(
    "marker", ["NA", "NaN", "nan", "N/A", "None", "null", "NULL", "-", "n", "?", "", "#N/A", " NA "]
)
def test_markers_are_missing_everywhere(tmp_path, marker):
    header = "processid,species,dna_bin,dna_barcode,coord-lat,image_measurement_value,split,country\n"
    path = write(tmp_path / "own.csv", header + f"P1,{','.join([marker] * 7)}\n")
    [row], checked = typed(path)
    assert {name for name, value in row.items() if value is not None} == {"processid"}
    assert checked.labels.names("species") == ()


@pytest.mark.parametrize(
    "name",
    [
        "Unknown",
        "not_classified",
        "unidentified",
        "undetermined",
        "UNKNOWN",
        "Unassigned",
        "Incertae  sedis",
        "indet.",
    ],
)
def test_words_for_unknown_taxa_are_missing(tmp_path, name):
    [row] = rows_of(write(tmp_path / "own.csv", f"id,seq,species,genus\nP1,ACGT,{name},Apis\n"))
    assert row["species"] is None and row["genus"] == "Apis"


def test_changes_and_suspicious_values_are_counted(tmp_path):
    lines = [
        f"P{i},ac gt,{name},{genus}"
        for i, (name, genus) in enumerate(
            [("Apis  mellifera", "Apis")] * 3 + [("Apis\xa0mellifera", "NA")] * 2 + [("tbd", "Apis")] * 4
        )
    ]
    changes = Changes()
    rows = rows_of(write(tmp_path / "own.csv", "id,seq,species,genus\n" + "\n".join(lines)), changes=changes)
    assert {row["species"] for row in rows} == {"Apis mellifera", "tbd"}
    assert sorted(str(problem) for problem in changes.problems("own.csv")) == [
        "own.csv: 2 cells of genus emptied (markers of missing values), such as 'NA'",
        "own.csv: 4 of 9 rows have the species 'tbd': is that a name?",
        "own.csv: 5 cells of species respelled, such as 'Apis  mellifera'",
        "own.csv: 9 cells of dna_barcode respelled, such as 'ac gt'",
    ]


def test_published_words_are_no_suspicious_names(tmp_path):
    changes = Changes()
    rows_of(write(tmp_path / "own.csv", "id,seq,subfamily\n" + "P,ACGT,unassigned Apidae\n" * 9), changes=changes)
    assert changes.problems("own.csv") == []


def test_coordinates_are_on_the_earth(tmp_path):
    """Each cell outside, infinite or no number is reported and emptied; NaN and NA are empty."""
    pairs = [
        ("45.5", "-73.6"),
        ("999", "10"),
        ("inf", "10"),
        ("10", "-180.5"),
        ("nan", "NA"),
        ("-90", "180"),
        ("x", "1e400"),
    ]
    lines = [f"P{i},ACGT,{lat},{lon}" for i, (lat, lon) in enumerate(pairs)]
    problems = []
    rows, _ = typed(write(tmp_path / "own.csv", "id,seq,coord-lat,coord-lon\n" + "\n".join(lines)), problems.append)
    assert [(row["coord-lat"], row["coord-lon"]) for row in rows] == [
        (45.5, -73.6),
        (None, 10),
        (None, 10),
        (10, None),
        (None, None),
        (-90, 180),
        (None, None),
    ]
    assert sorted((problem.row, problem.what.split(" is ")[0]) for problem in problems) == [
        (2, "coord-lat"),
        (3, "coord-lat"),
        (4, "coord-lon"),
        (7, "coord-lat"),
        (7, "coord-lon"),
    ]
    assert "coord-lat is '999', not a number from -90 to 90" in str(problems[0])


@pytest.mark.parametrize("name", ["P é", "Ñ1", "P 1", ""])
def test_ids_that_are_not_ascii_are_named(tmp_path, name):
    path = write(tmp_path / "own.csv", f"id,seq\nP1,ACGT\n{name},ACGT\n")
    with pytest.raises(ReleaseError, match="row 2.*is not an id .printable ASCII, no spaces"):
        scan(path, unassigned=True)
    problems = []
    checked = scan(path, problems.append, unassigned=True)
    assert checked.counts == {"unassigned": 1} and [problem.row for problem in problems] == [2]


def test_rows_that_are_left_out_are_not_counted_as_corrected(tmp_path):
    """Rows 2 (id) and 3 (a repeat) are left out: their names, and their coordinates, are told nowhere else."""
    header = "processid,dna_barcode,species,genus,split,coord-lat\n"
    rows = [
        "P1,ACGT,Apis  mellifera,Apis,train,1",
        "P 2,AC GT,Apis  mellifera,NA,train,x",
        "P1,AC GT,tbd,NA,train,x",
        "P3,ACGT,tbd,Apis,train,2",
        "P4,ACGT,tbd,Apis,train,2",
    ]
    problems = []
    kept, checked = typed(write(tmp_path / "own.csv", header + "\n".join(rows) + "\n"), problems.append)
    assert [row["processid"] for row in kept] == ["P1", "P3", "P4"] and kept[0]["species"] == "Apis mellifera"
    assert [problem.row for problem in problems] == [2, 3]
    assert list(map(str, checked.notes)) == [
        "own.csv: 1 cell of species respelled, such as 'Apis  mellifera'",
        "own.csv: 2 of 3 rows have the species 'tbd': is that a name?",
    ]


@pytest.mark.parametrize(
    "name",
    ["Apis mellifera", "apis  b", " Apis", "Apis ", "Apis\tb", "NA", "Unknown", "Apis\xa0b", "Ae\u0301", "é", ""],
)
def test_a_quick_test_finds_names_that_change(name):
    """`are_taxon_names` is False wherever `taxon_name` changes one of the names, and True for plain ones."""
    names = pa.array(["Apidae", name, "Bombus"])
    assert are_taxon_names(names) <= (taxon_name(name) == name)
    assert are_taxon_names(names) == (name == "Apis mellifera")
    column = pa.chunked_array([names])
    assert (Cleaned(taxon_name, are_taxon_names)(column) is column) == (taxon_name(name) == name)


def written(tmp_path, names, *rows):
    path = tmp_path / "table.csv"
    path.write_text("\n".join([names, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("names", "cells", "told"),
    [
        ("id,seq,species,Species", "A b|C d", "'species' and 'Species' both stand for 'species', but differ in row 2"),
        ("id,seq,dna_bin,bin_uri", "BOLD:A|BOLD:B", "'dna_bin' and 'bin_uri' both stand for 'dna_bin'"),
        ("id,seq,genus,genus_name", "Apis|", r"in row 2 \('Apis' and ''\)\. Rename or remove one"),
        ("processid,seq,lat,Latitude", "1.5|2", "'lat' and 'Latitude' both stand for 'coord-lat'"),
        ("id,seq,ID,x", "9|", "'id' and 'ID' both stand for 'processid', but differ in row 1"),
        ("id,dna_barcode,nucleotides,x", "ACGT|", "'dna_barcode' and 'nucleotides' both stand for 'dna_barcode'"),
        ("id,seq,order,Ordnung", "Diptera|Hymenoptera", "'order' and 'Ordnung' both stand for 'order'"),
    ],
)
def test_two_columns_of_one_meaning_that_differ_are_refused(tmp_path, names, cells, told):
    path = written(tmp_path, names, "A,ACGTA,,", f"B,ACGTC,{cells.replace('|', ',')}")
    with pytest.raises(ReleaseError, match=told):
        rows_of(path)


def test_two_columns_of_one_meaning_that_agree_are_read(tmp_path):
    """Also if they are spelled in two ways; ids of several kinds are not the same, and columns that nobody reads are
    not compared."""
    path = written(
        tmp_path,
        "processid,id,nucleotides,dna_barcode,Species,species_name,lat,latitude",
        "A,1,AC-GT,acgt,Apis  mellifera,Apis mellifera,1.50,1.5",
        "B,2,,n/a,unknown,,-0,",
    )
    with pytest.raises(ReleaseError, match=r"differ in row 2 \('-0' and ''\)"):
        rows_of(path)
    found = rows_of(path, columns=["processid", "dna_barcode", "species"])
    assert found[0] == {"processid": "A", "dna_barcode": "ACGT", "species": "Apis mellifera"}
    assert found[1] == {"processid": "B", "dna_barcode": None, "species": None}


def test_names_of_columns_in_other_spellings_and_languages(tmp_path):
    names = "Process ID,DNA-Barcode,Filo,Clase,Orden,Familia,Género,Espécie,Coord Lat,Split"
    path = written(tmp_path, names, "A,ACGT,Arthropoda,Insecta,Diptera,Culicidae,Aedes,Aedes vexans,1,train")
    (row,) = rows_of(path)
    found = [row[name] for name in ("phylum", "class", "order", "family", "genus", "species", "coord-lat", "split")]
    assert found == ["Arthropoda", "Insecta", "Diptera", "Culicidae", "Aedes", "Aedes vexans", "1", "train"]


def test_spaces_around_splits_and_places_are_removed(tmp_path):
    path = written(tmp_path, "id,seq,split,country", "A,ACGT, train ,Canada ", "B,ACGA,train,Canada", "C,ACGC,test,  ")
    changes = Changes()
    ((_, table),) = read_rows(path, changes=changes)
    assert table["split"].to_pylist() == ["train", "train", "test"]
    assert table["country"].to_pylist() == ["Canada", "Canada", None]
    told = [problem.what for problem in changes.problems("table.csv")]
    assert any(what.startswith("1 cell of split respelled, such as ' train '") for what in told)


def test_tables_as_other_programs_write_them(tmp_path):
    """The line of separators of Excel, quotes in a table of R with tabs, other endings, and the name "validation"."""
    expected = [{"processid": "A", "dna_barcode": "ACGT", "country": 'Ca "n";a', "split": "val"}]
    row = ('"A"', '"ACGT"', '"Ca ""n"";a"', '"validation"')
    head = ("id", "seq", "country", "split")
    tabs = "\t".join(f'"{name}"' for name in head) + "\n" + "\t".join(row)
    texts = {"a.csv": f"sep=;\r\n{';'.join(head)}\r\n{';'.join(row)}\r\n", "a.tsv": tabs, "a.TXT": tabs, "a.CSV": tabs}
    for name, text in texts.items():
        path = write(tmp_path / name, text)
        assert find_metadata(path) == path
        found = rows_of(path, columns=["processid", "dna_barcode", "country", "split"])
        assert found == expected, name
    lines = ('A\tACGT\t"x', '"A,2"\tACGT\t"x ""y"", z"', 'A3\tACGT\t""', 'A4\tACGT\t"x" y "z"')
    bold = write(tmp_path / "bold.tsv", "\n".join(["id\tseq\tcountry", *lines]) + "\n")
    found = [tuple(row.values()) for row in rows_of(bold, columns=["processid", "country"])]
    assert found == [("A", '"x'), ("A,2", 'x "y", z'), ("A3", None), ("A4", '"x" y "z"')]


def test_numbers_with_spaces_are_numbers(tmp_path):
    path = written(tmp_path, "id,seq,lat,lon", "A,ACGT, 45.5 ,-80")
    ((_, table),) = read_rows(path)
    assert to_types(table, 1, path.name)["coord-lat"].to_pylist() == [45.5]

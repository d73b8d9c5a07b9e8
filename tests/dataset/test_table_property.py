"""Random tables of specimens go through split, build, load and embed: rows, ids and sequences stay right.

200 examples, or as many as TABLE_EXAMPLES says:
`TABLE_EXAMPLES=10000 pytest -n 0 tests/dataset/test_table_property.py`.
"""

import csv
import io
import os
import tempfile
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from partition_rules import check_partition

from bioscan_hf.barcodes import spell
from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.dataset.split_file import split_file
from bioscan_hf.encoders.embed import embed
from bioscan_hf.encoders.kmers import kmer_encoder
from bioscan_hf.labels import taxon_name, without_author
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.release.rows import read_rows

EXAMPLES = int(os.environ.get("TABLE_EXAMPLES", "200"))

NAMES = [
    ("Apis", "Apis mellifera"),
    ("Apis", "Apis sp. 1BIO"),
    ("Bombus", "Bombus terrestris"),
    ("Apis", "Apis cerana"),
]
MARKERS = ["", "NA", "nan", "N/A", "None", "null", "-", "n", "?", "Unknown", "not_classified"]
SPELLINGS = [
    lambda barcode: barcode,
    lambda barcode: barcode.lower(),
    lambda barcode: barcode.replace("T", "U"),
    lambda barcode: f"--{barcode}-",
    lambda barcode: f"{barcode[:4]} {barcode[4:]}",
    lambda barcode: f"{barcode}N",
]
FORMS = ["{} {}", "{}  {}", " {} {}", "{}\xa0{}"]
FORMATS = [(",", "utf-8"), (";", "utf-8"), ("\t", "utf-8"), (",", "utf-8-sig"), (",", "cp1252"), (",", "utf-16")]


def spelling(barcode, change):
    return change(barcode)


def form_of(pair, form):
    return pair[0], form.format(*pair[1].split(" ", 1))


barcodes = st.builds(spelling, st.text("ACGT", min_size=10, max_size=20), st.sampled_from(SPELLINGS))
names = st.one_of(
    st.builds(form_of, st.sampled_from(NAMES), st.sampled_from(FORMS)),
    st.sampled_from([(genus, f"{name} Linnaeus, 1758") for genus, name in NAMES[::2]]),
    st.sampled_from([("Apis", marker) for marker in MARKERS]),
)
notes = st.text(st.sampled_from("ab \"'\t,;|\n\réß€"), max_size=8)
rows = st.lists(st.tuples(names, barcodes, notes), min_size=1, max_size=25)
formats = st.sampled_from(FORMATS)


def written(rows, delimiter, encoding, line_end):
    """The bytes of a table, and its cells as they have to be read."""
    cells = []
    for i, ((genus, species), barcode, note) in enumerate(rows):
        if delimiter == "\t":  # cannot hold them
            note = "".join(letter for letter in note if letter not in "\t\r\n")
        cells.append([f"P{i}-20", note, genus, species, barcode])
    header = ["processid", "notes", "genus", "species", "nuc"]
    if delimiter == "\t":
        text = "".join("\t".join(row) + line_end for row in [header, *cells])
    else:
        file = io.StringIO()
        csv.writer(file, delimiter=delimiter, lineterminator="\r\n").writerows([header, *cells])
        text = file.getvalue()
        if line_end == "\n" and not any("\r\n" in cell for row in cells for cell in row):
            text = text.replace("\r\n", "\n")
    return text.encode(encoding), cells


@pytest.fixture(scope="module")
def encoder():
    return kmer_encoder(4)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES == 200)
@given(rows, formats, st.sampled_from(["\n", "\r\n"]), st.sampled_from([".csv", ".tsv", ".jsonl", ".csv.gz"]))
def test_a_table_arrives_whole(encoder, rows, format, line_end, ending):
    delimiter, encoding = format
    content, cells = written(rows, delimiter, encoding, line_end)
    reading = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "own.csv"), Path(folder, f"out{ending}")
        source.write_bytes(content)
        try:
            split_file(source, output, encoding=reading)
        except ReleaseError as error:
            # Lines of a note that are whole rows by themselves cannot be told from a stray quote.
            assert "quote" in str(error) and any("\n" in note for _, _, note in rows)
            return
        except ValueError as error:
            assert (
                ending == ".tsv"
                and "tab or line break" in str(error)
                and any(set(row[1]) & set("\t\r\n") for row in cells)
            )
            assert not output.exists()
            return
        _check(source, output, cells, ending, encoder, folder)


def _check(source, output, cells, ending, encoder, folder):
    ids, barcodes = [row[0] for row in cells], [spell(row[4]) for row in cells]
    table = next(iter(read_rows(output)))[1]
    assert sum(len(block) for _, block in read_rows(output)) == len(cells)
    assert table["processid"].to_pylist() == ids and table["dna_barcode"].to_pylist() == barcodes
    assert table["notes"].to_pylist() == [row[1] or None for row in cells]
    check_partition(table)
    given = table["original_species"] if "original_species" in table.column_names else table["species"]
    for was, row in zip(given.to_pylist(), cells, strict=True):
        name = taxon_name(row[3])
        assert taxon_name(was or "") in (name, name and without_author(name))
    build(output, Path(folder, "built"))
    loaded = load_bioscan5m(Path(folder, "built"), split="all", max_nucleotides=None)
    assert dict(zip(loaded["processid"], loaded["dna_barcode"], strict=True)) == dict(zip(ids, barcodes, strict=True))
    splits = dict(zip(ids, table["split"].to_pylist(), strict=True))
    assert dict(zip(loaded["processid"], loaded["split"], strict=True)) == splits and len(loaded) == len(ids)
    found = embed(*encoder, loaded)
    assert found.processids == list(loaded["processid"]) and found.valid.all()
    by_barcode = {}
    for barcode, vector in zip(loaded["dna_barcode"], found.embeddings, strict=True):
        assert (by_barcode.setdefault(barcode.strip("N"), vector)[: len(vector)] == vector).all()

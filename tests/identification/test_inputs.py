"""Reads as users have them in Python: any list, column or table gives the same answers in its own order."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from made_up_references import library_of, records

from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.identification.opening import identify, open_library


@pytest.fixture(scope="module")
def world():
    """A library of few records, and reads of three of its species."""
    rows = records(np.random.default_rng(0), orders=1, families=1)
    return library_of(rows[::4]), [row["dna_barcode"] for row in rows[::12]]


IDS = ["c", "a", "b"]

FORMS = {
    "tuple": tuple,
    "generator": iter,
    "numpy": lambda reads: np.array(reads),
    "bytes": lambda reads: [read.encode() for read in reads],
    "Series with labels in another order": lambda reads: pd.Series(reads, index=[2, 1, 0]),
    "categories": lambda reads: pd.Series(reads, dtype="category"),
    "dictionary": lambda reads: pa.array(reads).dictionary_encode(),
    "large_string": lambda reads: pa.array(reads, pa.large_string()),
    "string_view": lambda reads: pa.array(reads).cast(pa.string_view()),
    "chunks": lambda reads: pa.chunked_array([reads[:1], reads[1:]]),
    "column of a Dataset": lambda reads: Dataset.from_dict({"x": reads})["x"],
    "table without ids": lambda reads: pa.table({"dna_barcode": reads}),
}

TABLES = {
    "Table": pa.table,
    "RecordBatch": pa.record_batch,
    "DataFrame": lambda columns: pd.DataFrame(columns, index=[9, 8, 7]),
    "Dataset": Dataset.from_dict,
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_any_kind(world, form):
    library, reads = world
    assert library.identify(FORMS[form](reads)).equals(library.identify(reads))


@pytest.mark.parametrize("form", TABLES)
def test_tables_of_any_kind(world, form):
    library, reads = world
    table = TABLES[form]({"processid": IDS, "dna_barcode": reads})
    expected = library.identify(reads, IDS)
    assert library.identify(table).equals(expected)
    assert library.identify(table, pd.Series(["x", "y", "z"]))["id"].to_pylist() == ["x", "y", "z"]
    assert pa.concat_tables(library.identify_batches([table])).equals(expected)


def test_missing_reads_and_ids(world):
    library, reads = world
    found = library.identify([reads[0], None, float("nan"), pd.NA, ""], ["a", None, 3, "d", "e"])
    assert found["status"].to_pylist() == ["ok", *["empty"] * 4]
    assert found["id"].to_pylist() == ["a", "", "3", "d", "e"]
    assert library.identify(reads, pd.Series(["a", None, float("nan")]))["id"].to_pylist() == ["a", "", ""]
    assert len(library.identify([])) == len(library.identify(pd.Series([], dtype=object))) == 0


def test_batches_are_counted_on(world):
    """Also of a table in one piece, whose columns are not reads."""
    library, reads = world
    whole = pa.table({"dna_barcode": reads})
    for batches in (whole.to_batches(2), [whole.slice(0, 2), whole.slice(2)], whole):
        found = pa.concat_tables(library.identify_batches(batches))
        assert found["id"].to_pylist() == ["1", "2", "3"]


def test_what_is_no_list_of_reads_is_refused(world):
    """One text was named letter by letter, and a dict by its keys."""
    library, reads = world
    for wrong in (reads[0], reads[0].encode(), "reads.fasta", {"a": reads[0]}, set(reads)):
        with pytest.raises(TypeError, match=r"A list is needed, but a \w+ was given: give \[value\]"):
            library.identify(wrong)
    for wrong in ([1], [reads[0], 2.5], [reads]):
        with pytest.raises(TypeError, match=r"A barcode must be a string, but a \w+ was given"):
            library.identify(wrong)
    with pytest.raises(ValueError, match="The table of reads has no column 'dna_barcode'; it has id, sequence"):
        library.identify(pa.table({"id": IDS, "sequence": reads}))
    frame = pd.DataFrame({"sequence": reads, "odd": [{1}, 2, object()]}, index=IDS)  # only what is needed is converted
    with pytest.raises(ValueError, match="it has sequence, odd. Rename one"):
        library.identify(frame)
    assert len(library.identify(frame.rename(columns={"sequence": "dna_barcode"}))) == 3
    with pytest.raises(ValueError, match="There are 3 specimens and 1 ids"):
        library.identify(reads, ["a"])


def test_a_file_is_no_library_and_is_not_looked_up_on_the_hub(tmp_path):
    (tmp_path / "refs.csv").write_text("id\n")
    for name in ("refs.csv", "absent"):
        with pytest.raises(FileNotFoundError, match=f"{name}' is not a library of references"):
            open_library(tmp_path / name)


def test_references_in_memory_twice_or_finished_are_refused(world, tmp_path):
    """A file given twice doubled its records; a finished library among files lost their numbers."""
    library, reads = world
    library.save_pretrained(tmp_path / "library")
    (tmp_path / "refs.csv").write_text(
        "\n".join(["id,species,sequence", *(f"{i},Apis a,{r}" for i, r in enumerate(reads))])
    )
    files = [tmp_path / "refs.csv", tmp_path / "library"]
    for wrong, error, told in (
        ([], ValueError, "No file of references was given"),
        (pd.DataFrame({"processid": IDS}), TypeError, "References are files, but a DataFrame was given"),
        ([files[0], str(tmp_path / "." / "refs.csv")], ValueError, "refs.csv' is given twice"),
        (files, ValueError, "library' is a finished library, and stands alone"),
    ):
        for make in (ReferenceLibrary.from_files, lambda wrong: identify(reads, wrong)):
            with pytest.raises(error, match=told):
                make(wrong)
    assert identify(reads, files[1:]).equals(library.identify(reads))
    assert len(identify(reads, files[0])) == 3

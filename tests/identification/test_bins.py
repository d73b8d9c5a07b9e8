"""BINs of reads and their confidences."""

import numpy as np
import pyarrow as pa
import pytest
from made_up_references import records

from bioscan_hf.identification import library as module
from bioscan_hf.identification.calibration import Calibration
from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.library import ReferenceLibrary


def make(rows):
    table = pa.table({name: pa.array([row[name] for row in rows], pa.large_string()) for name in COLUMNS})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 150)
        return ReferenceLibrary.from_records(Found(table, {"rows": "table"}))


@pytest.fixture(scope="module")
def world():
    """One BIN for each species. One record of each is a read, and all records of some species are."""
    rows = records(np.random.default_rng(11), each=5)
    names = sorted({row["species"] for row in rows})
    rows = [{**row, "dna_bin": f"BOLD:AAA{1000 + names.index(row['species'])}"} for row in rows]
    gone = set(names[::6])
    known = [row for row in rows[::5] if row["species"] not in gone]
    ids = {row["processid"] for row in known}
    library = [row for row in rows if row["species"] not in gone and row["processid"] not in ids]
    return {"library": library, "known": known, "new": [row for row in rows if row["species"] in gone]}


def barcodes(rows):
    return [row["dna_barcode"] for row in rows]


def test_bins_are_named_with_a_confidence(world, tmp_path):
    """Right and sure where the BIN is known, unsure where it is new; the same after the library was saved."""
    library = make(world["library"])
    known = library.identify(barcodes(world["known"]))
    assert known["bin"].to_pylist() == [row["dna_bin"] for row in world["known"]]
    assert np.median(known["bin_confidence"].to_numpy()) > 0.9
    both = library.identify(barcodes([*world["known"], *world["new"]]))
    sure = both["bin_confidence"].to_numpy()[len(world["known"]) :]
    assert np.nanmean(sure) < 0.2 and np.nanmax(sure) < 0.95
    names = both.column_names
    assert names[names.index("species") : names.index("bin") + 2] == [
        *("species", "species_confidence", "bin", "bin_confidence")
    ]
    library.save_pretrained(tmp_path / "library")
    assert ReferenceLibrary.from_pretrained(tmp_path / "library").identify(barcodes(world["known"])).equals(known)


def test_references_without_a_species_give_their_bin(world):
    """Records with a BIN and no names: the BIN of their reads is right and has a confidence, the species is new."""
    unnamed = [{**row, "genus": None, "species": None} for row in world["new"]]
    library = make([*world["library"], *unnamed[1::5], *unnamed[2::5], *unnamed[3::5]])
    found = library.identify(barcodes(world["new"][::5]))
    assert found["bin"].to_pylist() == [row["dna_bin"] for row in world["new"][::5]]
    assert np.mean(found["bin_confidence"].to_numpy()) > 0.7


def test_libraries_without_bins_have_no_such_columns(world):
    """References without BINs, and a calibration that was saved before BINs had a confidence."""
    library = make([{**row, "dna_bin": None} for row in world["library"]])
    assert not {"bin", "bin_confidence"} & set(library.identify(barcodes(world["known"])).column_names)
    library = make(world["library"])
    content = library.calibration.to_dict()
    del content["bins"]
    library.calibration = Calibration.from_dict(content)
    found = library.identify(barcodes(world["known"]))
    assert found["bin_confidence"].null_count == len(found) and found["bin"].null_count == 0


def test_reads_of_other_origin_have_no_bin(world):
    random = "".join(np.random.default_rng(1).choice(list("ACGT"), 658))
    (row,) = make(world["library"]).identify([random]).to_pylist()
    assert row["status"] == "not_coi" and row["bin"] is None and row["bin_confidence"] is None

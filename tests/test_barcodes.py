"""The one spelling of barcodes, and their digests."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioscan_hf.barcodes import barcode_digest, barcode_digests, clean_barcodes, spell, spelled
from bioscan_hf.schema import MISSING_TAXA


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ACGT", "ACGT"),
        ("acgt", "ACGT"),
        ("ACgt", "ACGT"),
        ("ACGU", "ACGT"),
        ("acgu", "ACGT"),
        ("--ACGT-", "ACGT"),
        ("AC--GT", "ACGT"),
        ("..ACGT..", "ACGT"),
        (" AC GT\t\n", "ACGT"),
        ("AC\xa0GT", "ACGT"),
        ("NACGRTN", "NACGRTN"),
        ("nnacgt", "NNACGT"),
        ("AC?T", "AC?T"),
        (None, None),
        ("", None),
        ("---", None),
        (" NA ", None),
        ("NaN", None),
        ("N/A", None),
        ("None", None),
        ("null", None),
        ("n", None),
        ("?", None),
        ("Unknown", None),
    ],
)
def test_one_spelling(given, expected):
    assert spell(given) == expected
    assert spelled(pa.array([given], pa.string())).to_pylist() == [expected]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.none() | st.text("ACGTUNacgtunryRY-. \t\xa0?") | st.sampled_from(sorted(MISSING_TAXA)), max_size=8))
def test_columns_are_spelled_as_texts_are(barcodes):
    """In chunks, slices and every type of a column of texts; spelling twice changes nothing."""
    expected = [spell(barcode) for barcode in barcodes]
    column = pa.chunked_array([barcodes[:3], barcodes[3:]], pa.string())
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        assert spelled(column.cast(kind)).to_pylist() == expected
    assert spelled(column.slice(1)).to_pylist() == expected[1:]
    assert spelled(spelled(column)).to_pylist() == expected
    digests = [barcode_digest(barcode).rstrip(b"\0") for barcode in barcodes]  # numpy cuts NUL at the end
    assert barcode_digests(column).tolist() == digests


def test_a_plain_column_is_not_copied():
    column = pa.array(["ACGT", "NNNN", None, "ACGTRYSWKMBDHV"])
    assert spelled(column) is column


def test_digests_are_equal_for_all_spellings():
    same = ["ACGTT", "acgtt", "ACGUU", "-ACG-TT-", "ACGTTNN", " AC GTT"]
    assert len({barcode_digest(barcode) for barcode in same}) == 1
    assert barcode_digest("NA") == barcode_digest(None) == barcode_digest("NNNN") == b""
    assert barcode_digest("ACGTA") != barcode_digest(same[0])
    assert clean_barcodes(["ac-gr", "None"]) == ["ACG", ""]

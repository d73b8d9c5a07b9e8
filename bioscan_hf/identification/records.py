"""Records of references: each once, equal ones together, and all on one strand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..barcodes import complement, spelled
from ..schema import LABEL_COLUMNS
from .prior import on_other_strand


def counted(number: int) -> str:
    """A number of records in words."""
    return f"{number:,} record{'s' * (number != 1)}"


def once(tables: Sequence[pa.Table]) -> tuple[pa.Table, list[str]]:
    """The tables as one, without records that an earlier table has too, and notes.

    They are the same if id, sequence and names are. A table may have a record several times.
    """
    table = pa.concat_tables(tables)
    if len(tables) == 1:
        return table, []
    frame = table.to_pandas().assign(place=np.repeat(np.arange(len(tables)), [len(part) for part in tables]))
    first = frame.groupby(table.column_names, dropna=False)["place"].transform("min")
    again = ((frame["place"] > first) & frame["processid"].notna()).to_numpy()
    notes = [f"{counted(int(again.sum()))} of several files, which count once"] if again.any() else []
    return table.filter(pa.array(~again)), notes


def distinct(table: pa.Table) -> pa.Table:
    """One row for each distinct sequence and lineage, with the first id and the number of records."""
    table = table.set_column(table.column_names.index("dna_barcode"), "dna_barcode", spelled(table["dna_barcode"]))
    table = table.filter(pc.is_valid(table["dna_barcode"]))
    keys = ["dna_barcode", *LABEL_COLUMNS]
    groups = table.group_by(keys, use_threads=False).aggregate([("processid", "first"), ("processid", "count")])
    groups = groups.rename_columns({"processid_first": "processid", "processid_count": "records"})
    return groups.select([*table.column_names, "records"])


def forward(records: pa.Table, *, by_model: bool) -> tuple[pa.Table, list[str], dict[str, int]]:
    """Records with those of COI on one strand, notes, and the turned ones: id -> number of records.

    Args:
        by_model: Whether a model, and not the references, gives the region: then nothing is turned.
    """
    sequences, columns = records["dna_barcode"].to_pylist(), records.column_names
    turned = [] if by_model else np.flatnonzero(on_other_strand(sequences)).tolist()
    if not turned:
        return records, [], {}
    rows = records.take(pa.array(turned)).to_pylist()
    names, number = {row["processid"]: row["records"] for row in rows}, sum(row["records"] for row in rows)
    for row in turned:
        sequences[row] = complement(sequences[row])
    records = records.set_column(1, "dna_barcode", pa.array(sequences, records["dna_barcode"].type))
    groups = records.group_by(["dna_barcode", *LABEL_COLUMNS], use_threads=False)
    records = groups.aggregate([("processid", "first"), ("records", "sum")])
    records = records.rename_columns({"processid_first": "processid", "records_sum": "records"})
    what = "1 record was" if number == 1 else f"{number:,} records were"
    return records.select(columns), [f"{what} on the other strand of COI, and turned"], names

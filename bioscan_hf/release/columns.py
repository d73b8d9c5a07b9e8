"""Column types of a release: numbers, boxes, and the features of the rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..schema import COLUMNS, MISSING_MARKERS, ROW_COLUMN, check_config
from .problems import Problem, stop

if TYPE_CHECKING:
    from datasets import Features

#: Column of the table of boxes -> column of a row. Corners are in pixels of the original photo, x1 and y1 exclusive.
BOX_COLUMNS = {
    "x0": "bbox_x0",
    "y0": "bbox_y0",
    "x1": "bbox_x1",
    "y1": "bbox_y1",
    "width_original": "width_original",
    "height_original": "height_original",
}

#: Types of the columns that hold numbers; all others are strings.
NUMBERS = {
    "coord-lat": pa.float64(),
    "coord-lon": pa.float64(),
    "image_measurement_value": pa.int64(),
    "area_fraction": pa.float64(),
    "scale_factor": pa.float64(),
    "inferred_ranks": pa.uint8(),
    "index_bioscan_1M_insect": pa.int64(),
    **dict.fromkeys((*BOX_COLUMNS.values(), ROW_COLUMN), pa.int32()),
}

_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")

#: Column -> smallest and largest number.
LIMITS = {"coord-lat": (-90.0, 90.0), "coord-lon": (-180.0, 180.0)}


def features(config: str, extra_columns: Sequence[str] = ()) -> Features:
    """Types of a row: the 23 published columns, `extra_columns`, and the image unless `config` is "dna".

    Extra columns are strings, those of `BOX_COLUMNS` and `ROW_COLUMN` int32.
    """
    from datasets import Features, Image, Value

    check_config(config)
    columns: dict[str, Any] = {"image": Image()} if config != "dna" else {}
    for name in (*COLUMNS, *extra_columns):
        columns[name] = Value(value_type(name))
    return Features(columns)


def value_type(column: str) -> str:
    """Type of a column's values, as `datasets.Value` names it."""
    return str(NUMBERS[column]).replace("double", "float64") if column in NUMBERS else "string"


def to_types(
    table: pa.Table,
    first_row: int,
    file: str,
    report: Callable[[Problem], None] = stop,
    kinds: Mapping[str, pa.DataType] = NUMBERS,
) -> pa.Table:
    """Casts the number columns of a table of strings. Cells that are not numbers are reported and become null."""
    for name, kind in kinds.items():
        if name not in table.column_names:
            continue
        column = table[name]
        values, bad = _typed(column, kind)
        if pa.types.is_floating(kind) and not _all_inside(values, *LIMITS.get(name, (-np.inf, np.inf))):
            bad |= _outside(values, *LIMITS.get(name, (-np.inf, np.inf)))
        if not bad.any():
            table = table.set_column(table.column_names.index(name), name, values)
            continue
        for i in np.flatnonzero(bad).tolist():
            value = column[i].as_py()
            what = f"{name} is {value!r}, not a number"
            what += f" of the type {kind}" if pa.types.is_integer(kind) else ""
            what += " from {:g} to {:g}".format(*LIMITS[name]) if name in LIMITS else ""
            what += ", with a decimal point" if _DECIMAL_COMMA.fullmatch(value) else ""
            who = table["processid"][i].as_py() if "processid" in table.column_names else None
            report(Problem(file, first_row + i, who, what, "cell emptied"))
        values = pc.if_else(pa.array(bad), pa.scalar(None, kind), values)
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def without_markers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts with null for markers of missing values."""
    marked = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(column)), pa.array(MISSING_MARKERS, column.type))
    return pc.if_else(marked, pa.scalar(None, column.type), column) if pc.any(marked).as_py() else column


def _typed(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, NDArray[np.bool_]]:
    """The column as `kind`, null where missing, and a mask of cells that are not such numbers."""
    try:  # whole numbers may be written as "150502.0"
        numbers = pc.cast(column, pa.float64())
        if pc.any(pc.is_nan(numbers)).as_py():
            numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        return pc.cast(numbers, kind), np.zeros(len(column), dtype=bool)
    except pa.ArrowInvalid:
        return _numbers_that_fit(without_markers(pc.utf8_trim_whitespace(column)), kind)


def _all_inside(values: pa.ChunkedArray, low: float, high: float) -> bool:
    """Whether all values are finite and inside the limits: one pass, before each value is looked at."""
    smallest, largest = pc.min_max(values).as_py().values()
    return smallest is None or bool(np.isfinite([smallest, largest]).all() and smallest >= low and largest <= high)


def _outside(values: pa.ChunkedArray, low: float, high: float) -> NDArray[np.bool_]:
    """Mask (n,) of values that are infinite or outside of the limits."""
    inside = pc.and_(pc.is_finite(values), pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)))
    return ~np.asarray(pc.fill_null(inside, True).to_numpy(zero_copy_only=False))


def _numbers_that_fit(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, NDArray[np.bool_]]:
    """The column as `kind`, null where a cell is not such a number, and a mask of those cells."""
    ok = pc.fill_null(pc.match_substring_regex(column, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"), False)
    values = pc.cast(pc.if_else(ok, column, None), pa.float64())
    if pa.types.is_integer(kind):
        bits, signed = kind.bit_width, pa.types.is_signed_integer(kind)
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1)) if signed else (0.0, 2.0**bits)
        whole = pc.and_(
            pc.equal(values, pc.round(values)), pc.and_(pc.greater_equal(values, low), pc.less(values, high))
        )
        values = pc.if_else(pc.fill_null(whole, False), values, None)
    bad = pc.and_(pc.is_valid(column), pc.is_null(values))
    return pc.cast(values, kind), bad.to_numpy(zero_copy_only=False).copy()


def unquoted(table: pa.Table) -> pa.Table:
    """Strings without quotes around them, in which two quotes are one: Excel writes them between tabs for a comma."""
    for place, name in enumerate(table.column_names):
        column = table[name]
        inside = pc.match_substring_regex(column, r'^"(?:[^"]|"")*"$')
        if pc.any(inside).as_py():
            bare = pc.replace_substring(pc.utf8_slice_codeunits(column, 1, -1), '""', '"')
            bare = pc.if_else(pc.equal(bare, ""), pa.scalar(None, pa.string()), bare)
            table = table.set_column(place, name, pc.if_else(inside, bare, column))
    return table

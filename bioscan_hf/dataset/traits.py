"""Texts on the traits of specimens, such as Bioscan-Traits, as a column of a dataset.

Source: Bioscan-Traits, https://arxiv.org/abs/2604.01619, at https://huggingface.co/datasets/osunlp/bioscan-traits:
80,000 texts on 19,000 photos of BIOSCAN-5M. The names of its columns were not verified: give those of your file.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, List, Value

from ..release.tables import read_strings


def add_traits(
    dataset: Dataset, traits: str | Path, *, key: str = "processid", text: str = "trait", name: str = "traits"
) -> Dataset:
    """The dataset with a further column: the texts of each specimen, in the order of the file; none is an empty list.

    Args:
        dataset: Has the column processid, as of `load_bioscan5m`.
        traits: Table with a row for each text: Parquet, CSV or TSV.
        key: Column of the table with the processid, or with a path of a photo whose name is one.
        text: Column of the table with the text. Rows without a text are left out.
        name: Name of the new column.

    Raises:
        ValueError: if the table has no such columns, the dataset has the column already, or no specimen has a text.
        FileNotFoundError: if there is no such table.
    """
    if name in dataset.column_names:
        raise ValueError(f"The dataset already has a column {name!r}. Give another name.")
    found = _read(Path(traits), key, text)
    ids = dataset.select_columns("processid").with_format("arrow")[:]["processid"].to_pylist()
    texts = [found.get(processid, []) for processid in ids]
    if not any(texts):
        raise ValueError(
            f"None of the {len(ids):,} specimens is among the {len(found):,} of {str(traits)!r}, column {key!r}. Give "
            f"the column of the processids as key."
        )
    features = {**dataset.features, name: List(Value("string"))}
    return dataset.add_column(name, pa.array(texts, pa.list_(pa.string())), feature=features[name])


def _read(path: Path, key: str, text: str) -> dict[str, list[str]]:
    """Processid -> its texts, of a table."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    tables: Any
    if path.suffix == ".parquet":
        columns = pq.read_schema(path).names
        if missing := [column for column in (key, text) if column not in columns]:
            raise ValueError(f"{str(path)!r} has no column {missing[0]!r}. It has {', '.join(columns)}.")
        tables = [pq.read_table(path, columns=[key, text])]
    else:
        tables = (table for _, table in read_strings(path, (key, text), (key, text)))
    found: dict[str, list[str]] = defaultdict(list)
    for table in tables:
        for processid, words in zip(table[key].to_pylist(), table[text].to_pylist(), strict=True):
            if processid and words:
                found[_processid(processid)].append(words.strip())
    return dict(found)


def _processid(name: str) -> str:
    """The processid in the path of a photo; another name as it is."""
    file = PurePosixPath(name.strip().replace("\\", "/")).name
    return file.rsplit(".", 1)[0] if file.lower().endswith((".jpg", ".jpeg", ".png")) else file

"""The features of the bioscan-dataset package (1.3), each beside ours on the same made-up release.

Its constructor accepts nothing but the real release (md5), so that check alone is replaced.
"""

import numpy as np
import pandas
import pyarrow as pa
import pytest
from bioscan_dataset import BIOSCAN5M
from bioscan_dataset.bioscan5m import load_bioscan5m_metadata
from PIL import Image as PILImage

from bioscan_hf.barcodes import published_unique_barcodes
from bioscan_hf.dataset.load import load_bioscan5m, load_label_maps
from bioscan_hf.dataset.torch_rows import published_unique_ids, to_torch
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.release.tables import read_table
from bioscan_hf.schema import LABEL_COLUMNS, SPLITS, chunk, image_path
from bioscan_hf.simulate.release import simulate_release

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.drop")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """150 specimens with photos in folders, where the package looks for them."""
    return simulate_release(tmp_path_factory.mktemp("parity") / "release", specimens=150, seed=3, folders=True)


@pytest.fixture
def theirs(release, monkeypatch):
    monkeypatch.setattr(BIOSCAN5M, "_check_integrity", lambda self: True)
    return lambda *args, **kwargs: BIOSCAN5M(str(release), *args, **kwargs)


def ours(release, split, ids, **arguments):
    """Our samples of one split, in the order of `ids` (theirs is the CSV's, ours goes split by split)."""
    data = load_bioscan5m(release, "cropped_256", split)
    place = {processid: i for i, processid in enumerate(data["processid"])}
    assert len(place) == len(ids) > 0 and set(place) == set(ids)
    return to_torch(data.select([place[i] for i in ids]), maps=load_label_maps(release), **arguments)


def same(mine, other):
    """Equal values, with NaN for a missing number and, for a missing text, "" here and NaN there."""
    if isinstance(other, PILImage.Image):
        return mine.mode == other.mode and mine.size == other.size and mine.tobytes() == other.tobytes()
    if isinstance(other, tuple):
        return isinstance(mine, tuple) and len(mine) == len(other) and all(map(same, mine, other))
    if other is not None and pandas.isna(other):
        return mine == "" or (isinstance(mine, float) and np.isnan(mine))
    return mine == other


@pytest.mark.parametrize("split", [*SPLITS, "seen", "unseen", "all", "validation", "pretrain + train"])
def test_metasplits_hold_the_same_specimens(release, split):
    table = load_bioscan5m_metadata(str(find_metadata(release)), split=split)
    data = load_bioscan5m(release, "dna", split)
    assert sorted(data["processid"]) == sorted(table["processid"]) and len(data) > 0


@pytest.mark.parametrize("target_format", ["index", "text"])
@pytest.mark.parametrize("targets", ["species", ("order", "genus", "uri"), ()])
@pytest.mark.parametrize("output_format", ["tuple", "dict"])
def test_samples_are_equal(release, theirs, output_format, targets, target_format):
    """Every value of every sample of two splits, missing labels and the pixels of the photos included."""
    modality = ("image", "dna", "processid", "coord-lat", "country", "image_measurement_value", "split")
    arguments = {"modality": modality, "target_type": targets}
    arguments |= {"target_format": target_format, "output_format": output_format}
    their = theirs("pretrain+test", **arguments)
    mine = ours(release, "pretrain+test", their.metadata["processid"].tolist(), **arguments)
    missing = False
    for i in range(len(their)):
        a, b = mine[i], their[i]
        if output_format == "dict":
            assert list(a) == list(b)
            a, b = tuple(a.values()), tuple(b.values())
        assert type(a) is tuple and same(a, b), (a, b)
        target = a[-1] if isinstance(a[-1], tuple) else a[-1:]
        missing |= any(label in (-1, "") for label in target)
    assert missing or not targets, "no missing label: half of this test would prove nothing"


def test_transforms_and_one_modality(release, theirs):
    """A text names a single modality; each transform gets what theirs gets."""
    arguments = {"modality": "barcode", "dna_transform": len, "target_transform": lambda t: t + 10}
    their = theirs("train", **arguments)
    mine = ours(release, "train", their.metadata["processid"].tolist(), **arguments)
    assert [mine[i] for i in range(len(mine))] == [their[i] for i in range(len(their))]
    arguments = {"modality": "image", "transform": lambda photo: photo.size, "output_format": "dictionary"}
    their = theirs("val", **arguments)
    mine = ours(release, "val", their.metadata["processid"].tolist(), **arguments)
    assert mine[0] == their[0] and mine[-1] == their[-1]


def test_index2label_and_label2index(release, theirs):
    """Scalars, arrays and missing values, for every label; theirs fails on several names, so it is asked singly."""
    their, maps = theirs("train", modality="dna"), load_label_maps(release)
    for column in LABEL_COLUMNS:
        names = [*maps.names(column), ""]
        ids = [*range(len(names) - 1), -1]
        assert maps.index2label(column, ids) == their.index2label(ids, column).tolist() == names
        assert maps.index2label(column, np.array(ids)) == names
        assert maps.label2index(column, names) == [their.label2index(name, column) for name in names] == ids
        assert maps.label2index(column, np.array(names)) == ids
        assert maps.index2label(column, -1) == their.index2label(-1, column) == ""
        assert maps.label2index(column, float("nan")) == their.label2index(float("nan"), column) == -1
        assert maps.index2label(column, 0) == their.index2label(0, column)
    for call, bad in [("label2index", "Nobody"), ("label2index", 3), ("index2label", "Diptera")]:
        with pytest.raises((KeyError, TypeError)) as theirs_error:
            getattr(their, call)(bad, "order")
        with pytest.raises(theirs_error.type):
            getattr(maps, call)("order", bad)


@pytest.mark.parametrize("length", [None, 660, 20])
def test_max_nucleotides(release, length):
    table = load_bioscan5m_metadata(str(find_metadata(release)), max_nucleotides=length).set_index("processid")
    data = load_bioscan5m(release, "dna", "all", max_nucleotides=length)
    assert data["dna_barcode"] == table.loc[list(data["processid"]), "dna_barcode"].tolist()


@pytest.mark.parametrize("length", [None, 660, 20])
def test_the_same_rows_stand_for_repeated_barcodes(release, length):
    """Of the metadata as a table, and streamed from the release."""
    path = find_metadata(release)
    table = load_bioscan5m_metadata(str(path), max_nucleotides=length, reduce_repeated_barcodes=True)
    kept = published_unique_barcodes(read_table(path), length)
    assert kept.tolist() == table.index.tolist() and 0 < len(kept) < 150
    assert published_unique_ids(release, length).to_pylist() == table["processid"].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_same_rows_stand_for_repeated_barcodes_in_random_tables(seed, tmp_path):
    """Barcodes with and without trailing N, of nothing but N, and missing."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 3000))
    barcodes = ["ACGT"[i % 4] * (1 + i // 4) + "N" * j for i in range(200) for j in range(3)] + ["N", "NN", None]
    table = pandas.DataFrame({"dna_barcode": rng.choice(np.array(barcodes, dtype=object), count)})
    for column in (*LABEL_COLUMNS, "processid", "split", "chunk"):
        table[column] = "x"
    table.to_csv(tmp_path / "m.csv", index=False)
    kept = load_bioscan5m_metadata(str(tmp_path / "m.csv"), reduce_repeated_barcodes=True).index
    found = published_unique_barcodes(pa.Table.from_pandas(table[["dna_barcode"]]))
    assert found.tolist() == kept.tolist()


def test_image_paths(release):
    """Of every specimen: the path in the package's table, the folder of the release, and a file that is there."""
    table = load_bioscan5m_metadata(str(find_metadata(release)))
    assert len(table) == 150
    for row in table.itertuples():
        assert image_path(row.processid, row.split, "cropped_256") == f"bioscan5m/images/cropped_256/{row.image_path}"
        assert (row.chunk if isinstance(row.chunk, str) else "") == chunk(row.processid, row.split)
        assert (release / image_path(row.processid, row.split, "cropped_256")).is_file()

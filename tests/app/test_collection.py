"""What filters leave, beside counts by pandas; photos, records, neighbours and the barcode gap."""

import csv
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioscan_hf import load_bioscan5m
from bioscan_hf.app import explore, gap, pictures
from bioscan_hf.app.collection import GAP_BARCODES, GAP_SPECIES, SHOWN, Collection, Filter
from bioscan_hf.schema import LABEL_COLUMNS


@pytest.fixture(scope="module")
def collection(dataset):
    return Collection(dataset)


@pytest.fixture(scope="module")
def frame(dataset):
    return load_bioscan5m(dataset, "dna", "all", max_nucleotides=None).to_pandas()


def kept(frame, where):
    """Rows that a filter leaves."""
    columns = {
        where.rank: where.name,
        "country": where.country,
        "province_state": where.province,
        "split": where.split,
    }
    for column, value in columns.items():
        if value is not None:
            frame = frame[frame[column] == value]
    if where.smallest is not None:
        frame = frame[frame["image_measurement_value"] >= where.smallest]
    return frame if where.largest is None else frame[frame["image_measurement_value"] <= where.largest]


@pytest.mark.slow
def test_every_filter_leaves_what_pandas_leaves(collection, frame):
    row = frame[frame["species"].notna() & frame["province_state"].notna()].iloc[0]
    filters = [Filter(rank=rank, name=row[rank]) for rank in LABEL_COLUMNS if row[rank]]
    filters += [
        Filter(country=row["country"]),
        Filter(province=row["province_state"]),
        Filter(split="train"),
        Filter(),
    ]
    filters += [Filter(smallest=5000), Filter(largest=9000.0), Filter("order", row["order"], row["country"])]
    for where in filters:
        found, own = collection.overview(where), kept(frame, where)
        assert found.rows == len(own) > 0
        assert (found.species, found.bins) == (own["species"].nunique(), own["dna_bin"].nunique())
        upper, lower = SHOWN[where.rank]
        counts = own.groupby([upper, lower], dropna=False).size()
        assert sorted(n for *_, n in found.taxa) == sorted(counts) and found.ranks == (upper, lower)
        assert sum(n for *_, n in found.places) == own["coord-lat"].notna().sum()
        assert sum(n for _, n in found.countries) == len(own)
        sample = collection.sample(where)
        assert set(sample) <= set(own["processid"]) and len(set(sample)) == min(18, len(own))


def test_filters_read_nothing_from_the_files(dataset, collection, tmp_path):
    """All that a filter shows was copied when the collection was opened: the files can even be gone."""
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    told = []
    own = Collection(copy, lambda stage, done, total: told.append(stage))
    assert list(dict.fromkeys(told)) == ["reading names", "reading specimens"]
    shutil.rmtree(copy)
    for where in (Filter(), Filter(smallest=5000), Filter("order", collection.named("Diptera")[0][1])):
        assert own.overview(where) == collection.overview(where)
        assert own.sample(where) == collection.sample(where)
        assert own.labels(own.sample(where)).keys() == set(own.sample(where))
        assert own.choices("province_state", where) == collection.choices("province_state", where)
    assert own.named("diptera") == [("order", "Diptera")]


def test_a_name_is_found_in_any_case_and_only_at_its_rank(collection, frame):
    genus = frame["genus"].dropna().iloc[0]
    assert collection.named(f"  {genus.upper()} ") == [("genus", genus)] and collection.named("nothing") == []
    where = explore.wanted(collection, "any", genus.lower(), "any", None, "", "1,000", "")
    assert (where.rank, where.name, where.smallest, where.country) == ("genus", genus, 1000.0, None)
    with pytest.raises(ValueError, match="No specimen has the name .* at the rank order. Check its spelling"):
        explore.wanted(collection, "order", genus, None, None, None, None, None)
    with pytest.raises(ValueError, match="The size 'big' is not a number of pixels"):
        explore.wanted(collection, None, None, None, None, None, "big", None)
    injected = "x' OR '1'='1"
    with pytest.raises(ValueError, match="No specimen has the name"):
        explore.wanted(collection, "order", injected, None, None, None, None, None)
    assert collection.overview(Filter(country=injected)).rows == 0


def test_photos_are_those_of_their_specimens(collection, dataset):
    for file in sorted((dataset / "cropped_256").glob("*.parquet"))[-3:]:
        table = pq.read_table(file, columns=["processid", "image"]).slice(3, 4)
        own = {row["processid"]: row["image"]["bytes"] for row in table.to_pylist()}
        assert collection.photos(list(own)) == own
    assert collection.photos(["nobody"]) == {} and collection.photos([]) == {}


def test_a_record_has_its_nearest_barcodes(collection, frame):
    row = frame[frame["species"].notna()].iloc[0]
    record = collection.record(row["processid"])
    assert record["species"] == row["species"] and record["dna_barcode"] == row["dna_barcode"]
    rank, others = collection.relatives(record)
    assert rank in ("genus", "family", "order", "class") and {other[rank] for other in others} == {row[rank]}
    assert row["processid"] not in {other["processid"] for other in others}
    found = gap.nearest(record, others)
    by_hand = sorted((distance(row["dna_barcode"], other["dna_barcode"]), other["processid"]) for other in others)
    assert [one.processid for one in found] == [name for _, name in by_hand[: gap.NEAREST]]
    assert row["processid"] in explore.record(collection, f" {row['processid']} ")
    assert "No specimen has the id &#x27;&lt;b&gt;&#x27;" in explore.record(collection, "<b>")


def distance(a, b):
    return gap.distance(*gap.placed_of([a, b]))


def test_distances_are_shares_of_the_shorter_barcode():
    assert distance("ACGTACGT", "ACGTACGT") == 0
    assert distance("ACGTACGT", "ACCTACGT") == 1 / 8
    assert distance("TACG", "ACGTACGT") == 0, "a part has the distance of its place"
    assert distance("NNACGTNN", "ACGA") == 1 / 4, "N at the ends are cut off"
    assert distance("ACNTACGT", "ACGTACGT") == 0, "N inside stands for any letter"
    assert distance("", "ACGT") == distance("NN", "ACGT") == 1


def test_strands_and_ends_are_no_distance():
    """Of 600 nt: on the other strand, without the first or the last 150, and both; 6 letters differ."""
    whole = "".join(random.Random(3).choices("ACGT", k=600))
    other = "".join({"A": "C", "C": "G", "G": "T", "T": "A"}[x] if i % 100 == 50 else x for i, x in enumerate(whole))
    turned = other[::-1].translate(str.maketrans("ACGT", "TGCA"))
    assert distance(whole, other) == distance(whole, turned) == 6 / 600
    assert distance(whole[150:], other[:450]) == 3 / 300
    sample = [("a", whole[150:]), ("a", other[:450]), ("b", whole), ("b", turned)]
    assert gap.barcode_gap(sample).within == [3 / 300, 6 / 600]


def test_the_gap_is_that_of_a_small_example():
    """Within a: 1/8. Between a and b: 3/8 at least; c has one barcode, so it has no row, but is a neighbour."""
    sample = [("a", "AAAAAAAA"), ("a", "AAAAAAAC"), ("b", "AAAAGGGC"), ("b", "AAAAGGGG"), ("c", "AAAAGGTT")]
    found = gap.barcode_gap(sample)
    assert found.species == ["a", "b"] and found.within == [1 / 8, 1 / 8] and found.barcodes == 5
    assert found.between == [3 / 8, 2 / 8] and found.others == ["b", "c"]
    assert found.rows()[0][0] == "b" and "2 of 2 species have a gap" in pictures.barcode_gap(found)
    assert "needs two species" in pictures.barcode_gap(gap.barcode_gap(sample[:2]))


def test_the_sample_of_the_gap_is_bounded_and_of_the_filter(collection, frame):
    order = frame[frame["species"].notna()]["order"].value_counts().index[0]
    found = collection.gap_sample(Filter("order", order))
    species = dict(zip(frame["species"], frame["order"], strict=True))
    assert {species[name] for name, _ in found} == {order} and len({name for name, _ in found}) <= GAP_SPECIES
    assert max(sum(name == one for one, _ in found) for name, _ in found) <= GAP_BARCODES


def test_a_csv_and_a_library_are_collections(tmp_path, library):
    """Columns that are not there have no filter, and nothing else fails."""
    rows = [{"id": f"s{i}", "sequence": "ACGT" * 50, "order": "Diptera", "family": f"F{i % 2}"} for i in range(5)]
    path = tmp_path / "it's [mine]*.csv"
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    own = Collection(path)
    found = own.overview(Filter())
    assert own.rows == 5 and sorted(found.taxa) == [("Diptera", "F0", 3), ("Diptera", "F1", 2)]
    assert found.places == [] and own.choices("country") == [] and own.photos(["s1"]) == {}
    assert "no coordinates" in pictures.sites(found) and "Diptera" in pictures.tree_map(found)
    references = Collection(library)
    assert references.rows > 100 and references.overview(Filter()).species > 10


def test_what_is_no_collection_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is nothing at"):
        Collection(tmp_path / "nothing")
    rows = {"processid": ["a", "b"], "order": ["Diptera", None], "coord-lat": ["1.5", "north"]}
    pq.write_table(pa.table(rows), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="text for a coordinate or size .*north.*`bioscan-hf stats` names its row"):
        Collection(tmp_path / "other.parquet")


def test_texts_of_a_picture_are_escaped():
    """A name cannot become part of the page."""
    from bioscan_hf.app.collection import Overview

    name = "<script>alert(1)</script>\"'"
    found = Overview(3, 1, 1, ("order", "family"), [(name, name, 3)], [(1.0, 2.0, 3)], [(name, 3)])
    for page in (
        pictures.tree_map(found),
        pictures.sites(found),
        pictures.gallery([name], {}, {name: name}),
        pictures.barcode_gap(gap.Gap([name, "b"], [0.1, 0.1], [0.2, 0.2], ["b", name], 4)),
    ):
        assert "<script" not in page and name not in page and "&lt;script&gt;" in page

"""Statistics of a release: formulas on small tables and against pandas, from every kind of source."""

from itertools import combinations
from math import log2

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioscan_hf.plots.sites import cells_of, merged
from bioscan_hf.release.catalogue import METADATA_CSV
from bioscan_hf.release.columns import features
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.schema import COLUMNS, LABEL_COLUMNS, RANKS
from bioscan_hf.statistics import distances
from bioscan_hf.statistics import measures as statistics
from bioscan_hf.statistics.table import read_specimens


def folder_of(path, rows, per_file=4):
    """A Parquet folder of rows, of which each names the columns that are not null; several shards."""
    schema = features("dna").arrow_schema
    rows = [{name: None for name in COLUMNS} | {"processid": f"P{i}", **row} for i, row in enumerate(rows)]
    (path / "dna").mkdir(parents=True)
    for i in range(0, len(rows), per_file):
        pq.write_table(pa.Table.from_pylist(rows[i : i + per_file], schema), path / "dna" / f"train-{i:05d}.parquet")
    return path


def row_of(rows, key, value):
    return next(row for row in rows if row[key] == value)


def osa(a, b):
    """Restricted Damerau-Levenshtein, by its recurrence."""
    table = {(i, -1): i + 1 for i in range(-1, len(a))} | {(-1, j): j + 1 for j in range(-1, len(b))}
    for i in range(len(a)):
        for j in range(len(b)):
            cost = int(a[i] != b[j])
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + cost)
            if i and j and a[i] == b[j - 1] and a[i - 1] == b[j]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(a) - 1, len(b) - 1]


def test_other_markers_are_no_barcodes(tmp_path, caplog):
    """As for split and embed: of a table of BOLD, the COI-5P counts, and what is left out is told."""
    lines = [
        "processid\tmarker_code\tspecies\tnuc",
        "P1\tCOI-5P\tA b\tACGT",
        "P1\t28S\tA b\tGGTT",
        "P2\tNone\tA b\tNone",
    ]
    (tmp_path / "bcdm.tsv").write_text("\n".join(lines))
    for columns in (("species", "dna_barcode"), ("species",)):
        assert read_specimens(tmp_path / "bcdm.tsv", columns).rows == 1
    assert "bcdm.tsv: left out 1 record of the marker 28S, 1 record without a sequence." in caplog.text


# ---- counts --------------------------------------------------------------------------------------------------------


def test_imbalance_ratio_and_sizes_of_categories(tmp_path):
    """Ten a and two b: ratio 10 / 2 = 5; mean and median 6; deviation of the population 4 (of a sample it is 5.7).

    The row without an order belongs to no category: of 13 rows, 12 are labelled. No row has a species.
    """
    rows = [{"order": "a"}] * 10 + [{"order": "b"}] * 2 + [{"order": None}]
    found = statistics.rank_statistics(folder_of(tmp_path, rows))
    assert row_of(found, "rank", "order") == {
        "rank": "order",
        "categories": 2,
        "labelled": 12,
        "labelled_share": 12 / 13,
        "unlabelled": 1,
        "unlabelled_share": pytest.approx(1 / 13),
        "imbalance_ratio": 5.0,
        "most_populated": "a",
        "most_populated_samples": 10,
        "least_populated": "b",
        "least_populated_samples": 2,
        "mean": 6.0,
        "median": 6.0,
        "std": 4.0,
    }
    species = row_of(found, "rank", "species")
    assert (species["categories"], species["labelled"], species["imbalance_ratio"], species["mean"]) == (
        0,
        0,
        None,
        None,
    )
    assert [row["rank"] for row in found] == [*LABEL_COLUMNS, "dna_barcode"]


def test_of_equally_large_categories_the_first_by_name_is_named(tmp_path):
    """Guards against names that depend on the order of the rows."""
    found = row_of(statistics.rank_statistics(folder_of(tmp_path, [{"genus": "B"}, {"genus": "A"}])), "rank", "genus")
    assert (found["most_populated"], found["least_populated"]) == ("A", "A")


def test_empty_text_and_nan_are_missing(tmp_path):
    rows = [{"order": "", "coord-lat": float("nan"), "coord-lon": 1.0}, {"order": "a", "coord-lat": 2.0}, {}]
    source = folder_of(tmp_path, rows)
    order = row_of(statistics.rank_statistics(source), "rank", "order")
    assert (order["categories"], order["labelled"], order["most_populated"]) == (1, 1, "a")
    places = statistics.geography(source)
    assert [row["categories"] for row in places["columns"]] == [0, 0, 1, 1, 0]
    assert places["cells"] == {"latitude": [], "longitude": [], "samples": []}


def test_barcodes_are_distinct_without_n_at_both_ends(tmp_path):
    """ACGT, ACGTNN and NACGT are one barcode, ANGT another; NN is none. Lengths are those of the text as it stands."""
    barcodes = ["ACGT", "ACGTNN", "NACGT", "ANGT", "NN", None, "ARGT"]
    specimens = read_specimens(folder_of(tmp_path, [{"dna_barcode": barcode} for barcode in barcodes]))
    barcode = row_of(statistics.rank_statistics(specimens), "rank", "dna_barcode")
    assert (barcode["categories"], barcode["labelled"], barcode["most_populated_samples"]) == (3, 5, 3)
    assert barcode["most_populated"] is None
    found = statistics.lengths(specimens)
    assert found["histogram"] == [[2, 1], [4, 3], [5, 1], [6, 1]]
    assert (found["samples"], found["missing"], found["minimum"], found["median"], found["maximum"]) == (6, 1, 2, 4, 6)
    assert (found["n_inside"], found["n_at_an_end"], found["other_letters"]) == (1, 3, 1)
    assert found["mean"] == 25 / 6 and found["longer_than_660"] == 0


def test_splits_count_samples_barcodes_and_species(tmp_path):
    rows = [
        {"split": "train", "dna_barcode": "ACGT", "species": "s"},
        {"split": "train", "dna_barcode": "ACGTN", "species": "s"},
        {"split": "train", "dna_barcode": "ACCC", "species": "t"},
        {"split": "pretrain", "dna_barcode": "GGGG"},
        {"split": None, "dna_barcode": "GGGT", "species": "u"},
    ]
    found = {row.pop("split"): tuple(row.values()) for row in statistics.split_statistics(folder_of(tmp_path, rows))}
    assert found["train"] == (3, 2, 2, "seen")
    assert found["pretrain"] == (1, 1, 0, "unknown")
    assert found["unassigned"] == (1, 1, 1, None)
    assert found["other_heldout"] == (0, 0, 0, "heldout")
    assert found["total"] == (5, 4, 3, None)


def test_published_counts_agree_with_one_another(dataset):
    """On a simulated release, samples and barcodes of the splits sum to the total: a barcode is in one split only."""
    *splits, total = statistics.split_statistics(dataset)
    assert total["samples"] == sum(row["samples"] for row in splits) == 400
    assert total["barcodes"] == sum(row["barcodes"] for row in splits) > 50
    assert "unassigned" not in {row["split"] for row in splits}


def test_unknown_split_is_an_error(tmp_path):
    with pytest.raises(ReleaseError, match="Unknown split 'holdout'"):
        statistics.split_statistics(folder_of(tmp_path, [{"split": "holdout", "dna_barcode": "A"}]))


# ---- barcodes ------------------------------------------------------------------------------------------------------


def test_diversity_of_equally_frequent_barcodes_is_the_logarithm_of_their_number(tmp_path):
    """Genus a has 8 barcodes twice each: 3 bits. b has one: 0 bits; c has none. Their mean is 1.5 bits over a and b.

    Distinct barcodes: 8, 1 and 0, so 3 on average and 1 in the middle. Rows without a genus do not count.
    """
    barcodes = ["A" * (i + 1) for i in range(8)]
    rows = [{"genus": "a", "dna_barcode": barcode} for barcode in barcodes * 2]
    rows += [{"genus": "b", "dna_barcode": "C"}] * 5 + [{"genus": "c"}, {"dna_barcode": "G"}]
    found = statistics.diversity(folder_of(tmp_path, rows), "genus")
    assert found["shannon_bits"] == pytest.approx(1.5, abs=1e-12)
    assert (found["categories"], found["barcodes"], found["mean"], found["median"]) == (3, 9, 3.0, 1.0)


def test_diversity_weighs_barcodes_by_their_samples(tmp_path):
    """Shares 3/4 and 1/4: -(0.75 log2 0.75 + 0.25 log2 0.25) = 0.8113 bits."""
    rows = [{"genus": "a", "dna_barcode": barcode} for barcode in ("A", "A", "A", "C")]
    assert statistics.diversity(folder_of(tmp_path, rows), "genus")["shannon_bits"] == pytest.approx(
        0.811278, abs=1e-6
    )


def test_a_transposition_is_one_edit():
    """ACGT and AGCT differ by one swap, which plain Levenshtein counts twice."""
    assert distances._distance_histogram(["ACGT", "AGCT"], 1)[:3].tolist() == [0, 1, 0]
    assert osa("ACGT", "AGCT") == 1


def test_distances_are_averaged_over_the_groups(tmp_path):
    """Genus a: AAAAA, and four with one C, each 1 from it; of the 6 pairs of these, 3 are a swap of neighbours, and 3
    are 2 apart: 7 pairs at 1 and 3 at 2. b: prefixes of one text, 4 pairs at 1, 3 at 2, 2 at 3 and 1 at 4. c has only
    4 barcodes and is left out. Of each group's 10 pairs the shares are averaged: (7 + 4) / 20 at 1, and so on.
    """
    of = {
        "a": ["AAAAA", "CAAAA", "ACAAA", "AACAA", "AAACA"],
        "b": ["A", "AC", "ACG", "ACGT", "ACGTA"],
        "c": ["G", "GG", "GGG", "GGGG"],
    }
    rows = [{"genus": genus, "dna_barcode": f"{b}N"} for genus, barcodes in of.items() for b in barcodes for _ in "12"]
    found = distances.barcode_distances(folder_of(tmp_path, rows), "genus", workers=1)
    by_hand = [np.array([osa(x, y) for x, y in combinations(of[genus], 2)]) for genus in "ab"]
    assert (found["groups"], found["groups_left_out"], found["barcodes"], found["pairs"]) == (2, 1, 10, 20)
    assert found["mean"] == pytest.approx(np.mean([x.mean() for x in by_hand]))
    assert found["std"] == pytest.approx(np.mean([x.std() for x in by_hand]))
    assert found["variance"] == pytest.approx(np.mean([x.var() for x in by_hand]))
    assert (found["minimum"], found["maximum"]) == (1.0, 3.0)  # a: 1 to 2, b: 1 to 4
    assert found["distribution"] == pytest.approx([0, 11 / 20, 6 / 20, 2 / 20, 1 / 20])
    assert np.arange(5) @ found["distribution"] == pytest.approx(found["mean"])


def test_incomplete_barcodes_are_counted(tmp_path):
    """Of six, one has N inside, one a code, one is shorter than 95 % of the median; N at an end is cut."""
    whole = "ACGT" * 25
    texts = [whole, whole + "A", "T" + whole + "N", whole[:40] + "N" + whole[41:], "R" + whole, whole[:90]]
    rows = [{"genus": "g", "dna_barcode": text} for text in texts]
    found = distances.barcode_distances(folder_of(tmp_path, rows), "genus", workers=1)
    assert (found["barcodes"], found["incomplete"]) == (6, 3)


def test_only_the_first_625_nucleotides_are_compared(tmp_path):
    barcodes = ["A" * 624 + letter + "G" * i for i, letter in enumerate("ACGTR")]
    rows = [{"genus": "a", "dna_barcode": barcode} for barcode in barcodes]
    found = distances.barcode_distances(folder_of(tmp_path, rows), "genus", workers=1)
    assert (found["mean"], found["maximum"]) == (1.0, 1.0)


def test_distances_of_large_groups_are_sampled_by_the_seed(tmp_path):
    """50 barcodes A, AA, ...: all 1,225 pairs at species, 10 of a sample of 5, the same whatever the order of rows."""
    rows = [{"species": "s", "genus": "g", "dna_barcode": "A" * (i + 1)} for i in range(50)]
    source, turned = folder_of(tmp_path / "a", rows), folder_of(tmp_path / "b", rows[::-1], per_file=7)
    everything = distances.barcode_distances(source, "species", workers=1)
    assert everything["pairs"] == 1225 and everything["mean"] == pytest.approx(51 / 3)  # (n + 1) / 3
    sample = distances.barcode_distances(source, "genus", max_per_group=5, workers=1)
    assert (sample["barcodes"], sample["pairs"]) == (5, 10)
    assert sample == distances.barcode_distances(turned, "genus", max_per_group=5, workers=1)
    others = [distances.barcode_distances(source, "genus", seed, 5, workers=1)["mean"] for seed in range(1, 6)]
    assert set(others) != {sample["mean"]}


def test_large_groups_are_compared_in_blocks():
    """Guards the seams: 1,100 sequences go in three blocks. A, AA, ... differ by their lengths, here 1 to 50."""
    sequences = ["A" * (i % 50 + 1) for i in range(1100)]
    counts = distances._distance_histogram(sequences, 1)
    lengths = np.array([len(sequence) for sequence in sequences])
    upper = np.abs(lengths[:, None] - lengths)[np.triu_indices(1100, 1)]
    assert counts.tolist() == np.bincount(upper, minlength=626).tolist()


def test_bad_arguments(dataset):
    for function in (statistics.diversity, distances.barcode_distances):
        with pytest.raises(ValueError, match="Unknown rank 'tribe'. Barcodes are grouped by phylum"):
            function(dataset, "tribe")
    with pytest.raises(ValueError, match="sample of 4 barcodes per group is too small: give 5 or more"):
        distances.barcode_distances(dataset, "genus", max_per_group=4)
    with pytest.raises(ValueError, match="read without 'dna_barcode'"):
        statistics.diversity(read_specimens(dataset, ("genus",)), "genus")


# ---- places and sizes ----------------------------------------------------------------------------------------------


def test_geography(tmp_path):
    """Three sites, two of them in the cell from 10.0 to 10.1 north; a country's place is the median of its rows."""
    rows = [{"country": "C", "coord-lat": 10.01, "coord-lon": -84.02}] * 3
    rows += [{"country": "C", "coord-lat": 10.09, "coord-lon": -84.02}, {"country": "B", "coord-lat": 50.5}]
    rows += [{"country": "D", "coord-lat": -33.3, "coord-lon": 151.25}]
    found = statistics.geography(folder_of(tmp_path, rows))
    site = row_of(found["columns"], "column", "site")
    assert (site["categories"], site["labelled"], site["most_populated"]) == (3, 5, (10.01, -84.02))
    assert found["countries"] == [
        {"country": "C", "samples": 4, "latitude": 10.01, "longitude": -84.02},
        {"country": "B", "samples": 1, "latitude": None, "longitude": None},
        {"country": "D", "samples": 1, "latitude": -33.3, "longitude": 151.25},
    ]
    assert found["cells"] == {"latitude": [-33.25, 10.05], "longitude": [151.25, -84.05], "samples": [1, 4]}


def test_places_on_the_edge_of_a_cell(tmp_path):
    """45.3 / 0.1 is 452.99...: the place is in the cell from 45.3 to 45.4, as 45.35 is; in the table and on maps."""
    assert 45.3 / 0.1 < 453 and -45.3 / 0.1 > -453
    edges = np.arange(-1800, 1800)
    assert (cells_of(edges / 10, 0.1) == edges).all() and (cells_of(edges / 10 + 0.0999, 0.1) == edges).all()
    rows = [{"coord-lat": lat, "coord-lon": lon} for lat, lon in ((45.3, -45.3), (45.35, -45.21), (45.29, -45.31))]
    found = statistics.geography(folder_of(tmp_path, rows))["cells"]
    assert found == {"latitude": [45.25, 45.35], "longitude": [-45.35, -45.25], "samples": [1, 2]}
    places = np.array([[-45.3, 45.3], [-45.21, 45.35], [-45.31, 45.29]])
    assert merged(places, np.ones(3, np.int64), 0.1)[2].tolist() == [2, 1]


def test_sizes(tmp_path):
    """1, 2, 2, 3 and a missing one: mean 2, deviation sqrt(1/2), a quarter at or below 1, three at or below 2."""
    rows = [{"image_measurement_value": value} for value in (1, 2, 2, 3, None)]
    pixels, area, _ = statistics.sizes(folder_of(tmp_path, rows))
    assert (pixels["categories"], pixels["labelled"], pixels["imbalance_ratio"]) == (3, 4, 2.0)
    assert pixels["values"] == {
        "minimum": 1, "p1": 1, "p25": 1, "median": 2, "p75": 2, "p99": 3, "maximum": 3,
        "mean": 2.0, "std": pytest.approx(0.5**0.5),
    }  # fmt: skip
    assert area["labelled"] == 0 and set(area["values"].values()) == {None}


# ---- sources -------------------------------------------------------------------------------------------------------


def test_every_source_gives_the_same(release, dataset, monkeypatch, tmp_path):
    """A release, its CSV, its Parquet and a copy of that on the Hub; the functions alone give what describe does."""
    found = statistics.describe(dataset)
    downloads = []

    def snapshot_download(name, **options):
        downloads.append((name, *options["allow_patterns"]))
        return str(dataset)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for source in (release, find_metadata(release), "somebody/bioscan"):
        assert statistics.describe(source) | {"source": None} == found | {"source": None}
    assert all(name == "somebody/bioscan" for name, *_ in downloads)
    assert not any("cropped_256" in pattern for download in downloads for pattern in download)
    assert found["rows"] == 400 and sum(row["samples"] for row in found["taxonomy"]) == 400
    assert found["splits"] == statistics.split_statistics(dataset)
    assert found["ranks"] == statistics.rank_statistics(dataset)
    assert found["diversity"][5] == statistics.diversity(dataset, "genus")
    assert found["geography"] == statistics.geography(dataset)
    assert found["sizes"] == statistics.sizes(dataset) and found["lengths"] == statistics.lengths(dataset)


def test_parquet_with_few_columns(tmp_path):
    """Columns that are absent are null, as those of a CSV."""
    (tmp_path / "dna").mkdir()
    table = {
        "processid": ["P1", "P2"],
        "dna_barcode": ["ACGT", "acgu"],
        "order": ["Diptera", None],
        "split": ["train"] * 2,
    }
    pq.write_table(pa.table(table), tmp_path / "dna/train.parquet")
    text = "\n".join(",".join(map(lambda cell: cell or "", row)) for row in zip(*table.values(), strict=True))
    (tmp_path / "t.csv").write_text(",".join(table) + "\n" + text + "\n")
    found = [statistics.describe(source) for source in (tmp_path, tmp_path / "t.csv")]
    assert {**found[0], "source": ""} == {**found[1], "source": ""} and found[0]["rows"] == 2


def test_unusable_sources(tmp_path, dataset):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        statistics.describe(tmp_path / "absent")
    (tmp_path / "broken.csv").write_text("processid,order\nP1,a\n")
    with pytest.raises(ReleaseError, match="has no column"):
        statistics.describe(tmp_path / "broken.csv")
    unfinished = tmp_path / "unfinished"
    (unfinished / "dna").mkdir(parents=True)
    (unfinished / "dna" / "train.parquet").write_bytes(b"")
    (unfinished / "manifest.json").write_text('{"complete": false}')
    with pytest.raises(ValueError, match="is not complete: run `bioscan-hf build` again"):
        statistics.describe(unfinished)
    (unfinished / "manifest.json").unlink()
    with pytest.raises(ReleaseError, match="train.parquet is not a readable Parquet file"):
        statistics.describe(unfinished)
    other = tmp_path / "other" / "dna"
    other.mkdir(parents=True)
    pq.write_table(pa.table({"order": ["a"]}), other / "train.parquet")
    with pytest.raises(ReleaseError, match="has no column 'dna_barcode'"):
        statistics.describe(other.parent)
    pq.write_table(features("dna").arrow_schema.empty_table(), other / "train.parquet")
    with pytest.raises(ReleaseError, match="holds no rows"):
        statistics.describe(other.parent)


def test_a_number_that_is_none_is_named_with_its_row(tmp_path, release):
    table = pd.read_csv(find_metadata(release), dtype=str, keep_default_na=False)
    table.loc[6, "coord-lat"] = "north"
    table.to_csv(tmp_path / METADATA_CSV, index=False)
    with pytest.raises(ReleaseError, match=rf"row 7 \({table.processid[6]}\): coord-lat is 'north', not a number"):
        statistics.describe(tmp_path)


def test_progress_is_cumulative(dataset):
    """Rows of all files, then pairs of all groups of a rank; the last call of a stage is its total."""
    steps = []
    found = statistics.describe(
        dataset, distances=True, max_per_group=10, workers=1, progress=lambda *step: steps.append(step)
    )
    stages = {}
    for stage, done, total in steps:
        assert stages.get(stage, (0,))[-1] < done <= total
        stages[stage] = (*stages.get(stage, ()), done)
    assert stages["reading"][-1] == 400 and len(stages["reading"]) > 3
    compared = {row["rank"]: row["pairs"] for row in found["distances"] if row["groups"]}
    assert {"phylum", "order"} < set(compared)
    assert stages.pop("barcode gap")[-1] > 10
    assert {stage: done[-1] for stage, done in stages.items() if stage != "reading"} == {
        f"distances within {rank}": pairs for rank, pairs in compared.items()
    }


# ---- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_formulas_on_real_barcodes_agree_with_pandas(real_data):
    """Each number, computed a second time by other means, on 3,070 records of BOLD."""
    path = real_data / "bold_coi5p_sample.csv.gz"
    specimens = read_specimens(path)
    frame = pd.read_csv(path, dtype=str)
    frame["barcode"] = frame["dna_barcode"].str.strip("N")
    for rank, found in zip((*LABEL_COLUMNS, "barcode"), statistics.rank_statistics(specimens), strict=True):
        sizes = frame[rank].value_counts()
        assert found["categories"] == len(sizes) and found["labelled"] == sizes.sum() == frame[rank].notna().sum()
        assert found["imbalance_ratio"] == sizes.max() / sizes.min()
        expected = (sizes.mean(), sizes.median(), sizes.std(ddof=0))
        assert (found["mean"], found["median"], found["std"]) == pytest.approx(expected)
    for rank in LABEL_COLUMNS:
        found = statistics.diversity(specimens, rank)
        distinct = frame.groupby(rank)["barcode"].nunique()
        shares = frame.groupby(rank)["barcode"].value_counts(normalize=True)
        bits = (-shares * shares.map(log2)).groupby(level=0).sum()
        assert found["barcodes"] == frame.loc[frame[rank].notna(), "barcode"].nunique()
        expected = (distinct.mean(), distinct.median(), distinct.std(ddof=0), bits.mean())
        assert (found["mean"], found["median"], found["std"], found["shannon_bits"]) == pytest.approx(expected)
    places = statistics.geography(specimens)
    assert row_of(places["columns"], "column", "country")["categories"] == frame["country"].nunique()
    pairs = frame.dropna(subset=["coord-lat", "coord-lon"]).astype({"coord-lat": float, "coord-lon": float})
    sites = pairs.groupby(["coord-lat", "coord-lon"]).size()
    assert row_of(places["columns"], "column", "site")["categories"] == len(sites) > 1000
    assert sum(places["cells"]["samples"]) == len(pairs)
    letters = frame["dna_barcode"].str.len()
    found = statistics.lengths(specimens)
    assert (found["mean"], found["std"]) == pytest.approx((letters.mean(), letters.std(ddof=0)))
    assert found["median"] == letters.median() and found["longer_than_660"] == (letters > 660).sum() > 0
    assert found["n_inside"] == frame["barcode"].str.contains("N").sum() > 0
    assert found["other_letters"] == frame["dna_barcode"].str.contains("[^ACGTN]").sum() > 0


@pytest.mark.realdata
def test_distances_of_real_barcodes(real_data):
    """Of one species by the plain recurrence, pair by pair; and farther apart the higher the rank.

    The published means over all of BIOSCAN-5M are 158 in the phylum, 50 in a genus and 17 in a species; these records
    are others, of 235 species, so only the scale can be compared: a phylum lies between 140 and 175.
    """
    specimens = read_specimens(real_data / "bold_coi5p_sample.csv.gz")
    means = [distances.barcode_distances(specimens, rank, max_per_group=10)["mean"] for rank in RANKS[1:]]
    assert means == sorted(means, reverse=True)
    assert 140 < means[0] < 175
    frame = pd.read_csv(real_data / "bold_coi5p_sample.csv.gz", dtype=str)
    barcodes = frame.loc[frame.species == frame.species.iloc[0], "dna_barcode"].str.strip("N").str[:625].unique()[:4]
    counts = distances._distance_histogram(list(barcodes), 1)
    assert np.repeat(np.arange(626), counts).tolist() == sorted(osa(a, b) for a, b in combinations(barcodes, 2))
    assert len(barcodes) == 4


def test_parquet_of_others_is_read_as_a_table(tmp_path):
    """Numbers written as text, and columns with other names; a cell that is not a number is named by row and value."""
    file = tmp_path / "own.parquet"
    columns = {"ID": ["a", "b"], "Sequence": ["acgt", "ACGA"], "Species": ["Apis  mellifera", "unknown"]}

    def described(**more):
        pq.write_table(pa.table(columns | more), file)
        found = read_specimens(file)
        return found.query('SELECT species, length, "coord-lat", "coord-lon" FROM specimens ORDER BY species')

    assert described(Lat=["1.5", "n/a"], longitude=[2, 3]) == [("Apis mellifera", 4, 1.5, 2.0), (None, 4, None, 3.0)]
    for value, told in (("x", "'x', not a number"), ("45,5", "not a number from -90 to 90, with a decimal point")):
        with pytest.raises(ReleaseError, match=rf"own.parquet, row 2 \(b\): coord-lat is .*{told}"):
            described(Lat=["1", value])
    with pytest.raises(ReleaseError, match="row 1 .*coord-lat is '99', not a number from -90 to 90. Correct the file"):
        described(Lat=[99, 0])
    with pytest.raises(ReleaseError, match="the column 'Lat' holds list<.*>, not text"):
        described(Lat=[[1], [2]])
    with pytest.raises(ReleaseError, match="'species' and 'Species' both stand for 'species', but differ in row 1"):
        described(species=["Other name", None])
    with pytest.raises(ReleaseError, match="has no column 'dna_barcode'. Its columns are x"):
        pq.write_table(pa.table({"x": [1]}), file)
        read_specimens(file)

"""Exports for other programs and the reads of each taxon in each sample, from a table of answers made by hand."""

import pyarrow as pa
import pytest

from bioscan_hf import __version__
from bioscan_hf.identification.exports import darwin_core, write_darwin_core, write_krona, write_qiime
from bioscan_hf.identification.lineages import prefixed
from bioscan_hf.identification.samples import abundance, with_samples

RANKS = ("phylum", "class", "order", "family", "subfamily", "genus", "species")
BEE = ("Arthropoda", "Insecta", "Hymenoptera", "Apidae", "Apinae", "Apis", "Apis mellifera")
FLY = ("Arthropoda", "Insecta", "Diptera", "Cecidomyiidae", None, "Lestremia", "Lestremia sp. 3")


def row(name, lineage, rank, status="ok", confidence=0.98765, identity=0.9912):
    shown = dict(zip(RANKS, lineage, strict=True))
    best = shown[rank] if rank else None
    return {
        **{"id": name, "status": status, "name": best, "rank": rank, "confidence": confidence if rank else None},
        **shown,
        **{"nearest": "REF1-20" if lineage[0] else None, "identity": identity if lineage[0] else None},
    }


def answers():
    rows = [
        row("a;sample=wood;size=5", BEE, "species"),
        row("b;sample=lake;size=3", FLY, "species", status="short"),
        row("c;sample=lake;size=2", BEE, "family", confidence=0.95),
        row("d;sample=wood;size=7", BEE, None),
        row("e;sample=wood;size=1", (None,) * 7, None, status="not_coi"),
        row("f;sample=lake;size=11", BEE, "species"),
    ]
    schema = pa.schema([(key, pa.float64() if key in ("confidence", "identity") else pa.string()) for key in rows[0]])
    return with_samples(pa.Table.from_pylist(rows, schema))


def test_darwin_core_has_the_standard_terms():
    rows = darwin_core(answers()).to_pylist()
    assert [row["occurrenceID"][0] for row in rows] == ["a", "b", "c", "d", "f"]  # "not_coi" is left out
    assert rows[0] == {
        **{"occurrenceID": "a;sample=wood;size=5", "basisOfRecord": "MaterialSample", "occurrenceStatus": "present"},
        **{"eventID": "wood", "organismQuantity": 5, "organismQuantityType": "DNA sequence reads"},
        **{"scientificName": "Apis mellifera", "taxonRank": "species", "kingdom": "Animalia", "phylum": "Arthropoda"},
        **{"class": "Insecta", "order": "Hymenoptera", "family": "Apidae", "subfamily": "Apinae", "genus": "Apis"},
        **{"specificEpithet": "mellifera", "identificationVerificationStatus": "unverified"},
        "identificationRemarks": rows[0]["identificationRemarks"],
    }
    remark = f"nearest reference REF1-20, identity 99.1%; confidence 98.8%; bioscan_hf {__version__}"
    assert rows[0]["identificationRemarks"] == remark
    assert rows[1]["scientificName"] == "Lestremia sp. 3" and rows[1]["specificEpithet"] is None
    assert "; status short; " in rows[1]["identificationRemarks"]
    family = rows[2]
    assert (family["scientificName"], family["taxonRank"], family["genus"]) == ("Apidae", "family", None)
    unnamed = rows[3]
    assert (unnamed["scientificName"], unnamed["taxonRank"], unnamed["kingdom"]) == ("incertae sedis", None, None)


def test_darwin_core_of_photos_tells_the_similarity():
    """Answers for photos have a similarity, and those for photos and sequences have both."""
    photos = answers().rename_columns({"identity": "similarity"}).slice(0, 1)
    (row,) = darwin_core(photos).to_pylist()
    assert row["identificationRemarks"].startswith("nearest reference photo of REF1-20, similarity 99.1%; conf")
    both = (
        answers()
        .slice(0, 1)
        .append_column("photo_nearest", pa.array(["P"]))
        .append_column("similarity", pa.array([0.5]))
    )
    (row,) = darwin_core(both).to_pylist()
    assert "REF1-20, identity 99.1%; nearest reference photo of P, similarity 50.0%;" in row["identificationRemarks"]
    mixed = both.append_column("note", pa.array(["perhaps they were mixed up"]))
    assert "; perhaps they were mixed up; bioscan" in darwin_core(mixed).to_pylist()[0]["identificationRemarks"]


def test_darwin_core_is_written_by_the_ending(tmp_path):
    write_darwin_core(answers(), tmp_path / "dwc.tsv")
    lines = (tmp_path / "dwc.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:2] == ['"occurrenceID"', '"basisOfRecord"'] and len(lines) == 6


def test_krona_has_reads_and_lineages(tmp_path):
    write_krona(answers(), tmp_path / "krona.txt")
    assert (tmp_path / "krona.txt").read_text() == (
        "16\tArthropoda\tInsecta\tHymenoptera\tApidae\tApinae\tApis\tApis mellifera\n"
        "8\tno name\n"
        "3\tArthropoda\tInsecta\tDiptera\tCecidomyiidae\tLestremia\tLestremia sp. 3\n"
        "2\tArthropoda\tInsecta\tHymenoptera\tApidae\n"
    )


def test_qiime_taxonomy(tmp_path):
    write_qiime(answers(), tmp_path / "taxonomy.tsv")
    bee = "k__Animalia; p__Arthropoda; c__Insecta; o__Hymenoptera; f__Apidae"
    assert (tmp_path / "taxonomy.tsv").read_text().splitlines() == [
        "Feature ID\tTaxon\tConfidence",
        f"a;sample=wood;size=5\t{bee}; g__Apis; s__Apis mellifera\t0.9877",
        "b;sample=lake;size=3\tk__Animalia; p__Arthropoda; c__Insecta; o__Diptera; f__Cecidomyiidae; g__Lestremia; "
        "s__Lestremia sp. 3\t0.9877",
        f"c;sample=lake;size=2\t{bee}\t0.9500",
        "d;sample=wood;size=7\tUnassigned\t",
        "e;sample=wood;size=1\tUnassigned\t",
        f"f;sample=lake;size=11\t{bee}; g__Apis; s__Apis mellifera\t0.9877",
    ]
    (lineage,) = prefixed([f"{bee}; g__Apis; s__Apis mellifera"])
    assert lineage == {rank: name for rank, name in zip(RANKS, BEE, strict=True) if rank != "subfamily"}
    twice = pa.concat_tables([answers(), answers()])
    with pytest.raises(ValueError, match="6 ids are missing or occur more than once, such as 'a;sample=wood;size=5'"):
        write_qiime(twice, tmp_path / "twice.tsv")
    assert not (tmp_path / "twice.tsv").exists()


def test_abundance_sums_the_reads_of_each_sample():
    table = abundance(answers())
    assert table.column_names == ["name", "rank", *RANKS, "lake", "wood"]
    found = {(row["name"], row["rank"]): (row["lake"], row["wood"]) for row in table.to_pylist()}
    assert list(found) == [
        ("Apis mellifera", "species"),
        ("Lestremia sp. 3", "species"),
        ("Apidae", "family"),
        (None,) * 2,
    ]
    assert list(found.values()) == [(11, 5), (3, 0), (2, 0), (0, 8)]
    assert table["species"].to_pylist() == ["Apis mellifera", "Lestremia sp. 3", None, None]


def test_samples_come_from_ids_or_a_column():
    """Labels of usearch, ids without a sample, a column of samples, and neither."""
    plain = answers().drop_columns(["sample", "size"]).slice(0, 4)

    def named(ids, samples=None):
        return with_samples(plain.set_column(0, "id", pa.array(ids)), samples)

    table = named(["barcodelabel=A;x;size=2;", "y;barcodelabel=B;size=9", "z;size=4", "w;sample=;"])
    assert table["sample"].to_pylist() == ["A", "B", None, None] and table["size"].to_pylist() == [2, 9, 4, 1]
    reads = abundance(table)
    assert reads.column_names[-3:] == ["A", "B", "no sample"]
    assert sum(sum(reads[name].to_pylist()) for name in ("A", "B", "no sample")) == 16
    given = named(list("wxyz"), ["species", None, "species", "T"])
    assert abundance(given).column_names[-3:] == ["T", "sample species", "no sample"]
    assert named(list("wxyz")).column_names == plain.column_names
    assert abundance(plain)["reads"].to_pylist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="There are 4 answers and 2 samples"):
        named(list("wxyz"), ["A", "B"])

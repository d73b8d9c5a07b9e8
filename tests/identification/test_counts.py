"""Tables of reads: what is a sample, what is refused, and every read in every sum."""

import csv

import numpy as np
import pyarrow as pa
import pytest
from made_up_references import records, write_table

from bioscan_hf.cli.main import main
from bioscan_hf.dataset.sequences import read_sequences
from bioscan_hf.identification.counts import own_counts, read_counts, whole_numbers


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """References, and three of their barcodes as ASVs: in a FASTA and in tables."""
    folder = tmp_path_factory.mktemp("counts")
    rows = records(np.random.default_rng(7), each=3)
    write_table(folder / "references.csv", rows)
    reads = [row["dna_barcode"] for row in rows[:3]]
    (folder / "asvs.fasta").write_text("".join(f">ASV{i};size=99\n{one}\n" for i, one in enumerate(reads)))
    (folder / "table.tsv").write_text("#OTU ID\tlake\twood\tsize\nASV2\t5\t0\t5\nASV0\t1\t2\t3\nASV1\t\t7.0\t7\n")
    lines = [f"ASV{i},{one},{a},{b}" for i, (one, a, b) in enumerate(zip(reads, (1, 0, 5), (2, 7, 0), strict=True))]
    (folder / "wide.csv").write_text("\n".join(["asv,sequence,lake,wood", *lines]) + "\n")
    long = [
        f"{i}{place},{one},{place},{n}" for i, one in enumerate(reads) for place, n in zip("lw", (i, 5), strict=True)
    ]
    (folder / "long.csv").write_text("\n".join(["id,sequence,site,reads", *long]) + "\n")
    return folder


@pytest.mark.parametrize(("source", "counts"), [("asvs.fasta", "table.tsv"), ("wide.csv", "wide.csv")])
def test_reads_of_a_table_are_in_every_file(source, counts, folder, tmp_path, capsys):
    """15 reads of 3 ASVs in 2 samples, whatever the sizes in ids say."""
    names = ("names", "taxa", "dwc")
    paths = {name: tmp_path / f"{name}.csv" for name in names}
    words = ["identify", folder / source, paths["names"], "--references", folder / "references.csv", "--least", "0"]
    words += ["--counts", folder / counts, "--abundance", paths["taxa"], "--darwincore", paths["dwc"]]
    words += ["--krona", tmp_path / "krona.txt", "--html", tmp_path / "page.html"]
    main(list(map(str, words)))
    assert f"{counts}: 15 reads of 3 sequences in 2 samples (lake, wood)." in capsys.readouterr().out
    assert [int(row["size"]) for row in read(paths["names"])] == [3, 7, 5]
    taxa = read(paths["taxa"])
    assert [sum(int(row[sample]) for row in taxa) for sample in ("lake", "wood")] == [6, 9]
    dwc = read(paths["dwc"])
    assert [(row["occurrenceID"], row["eventID"], int(row["organismQuantity"])) for row in dwc] == [
        ("ASV0:lake", "lake", 1),
        ("ASV0:wood", "wood", 2),
        ("ASV1:wood", "wood", 7),
        ("ASV2:lake", "lake", 5),
    ]
    assert sum(int(line.split("\t")[0]) for line in (tmp_path / "krona.txt").read_text().splitlines()) == 15
    assert '"names":["lake","wood"]' in (tmp_path / "page.html").read_text()


def test_a_column_of_sizes_counts(folder, tmp_path, capsys):
    """3 + 15 reads by --size-column; without it each row counts as one, which is told."""
    words = ["identify", folder / "long.csv", tmp_path / "n.csv", "--references", folder / "references.csv", "--force"]
    words += ["--sample-column", "site", "--abundance", tmp_path / "taxa.csv"]
    main(list(map(str, [*words, "--size-column", "reads"])))
    assert "counts as one" not in capsys.readouterr().out
    taxa = read(tmp_path / "taxa.csv")
    assert [sum(int(row[site]) for row in taxa) for site in "lw"] == [3, 15]
    main(list(map(str, words)))
    assert "each sequence counts as one: see --counts and --size-column" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\tA\nASV0\t1\nASV1\t2\n", "has no row for 'ASV2'. Its first ids are 'ASV0', 'ASV1'"),
        ("id\tA\nASV0\t1\nASV1\t2\nASV2\tx\n", "has 'x' reads of 'ASV2' in 'A': give a whole number"),
        ("id\tA\nASV0\t1\nASV1\t2\nASV2\t-3\n", "has '-3' reads of 'ASV2'"),
        ("id\tA\nASV0\t1\nASV1\t2\nASV2\t0.5\n", "has '0.5' reads of 'ASV2'"),
        ("id\tA\nASV0\t1\nASV0\t2\n", "has 'ASV0' more than once in its first column, 'id'"),
        ("id\tname\nASV0\tApis\n", "has no column of whole numbers"),
        ("# My table\n#OTU ID\tA\nASV0\t1\n", "begins with a comment"),
        (
            "#Compressed Format: groupIndex,abundance.\n#1,A\nASV0\t3\t1,3\n",
            "Write it by count.seqs without compression",
        ),
        ("sample\tASV0\tASV1\tASV2\nA\t1\t2\t3\n", "has 'ASV0' as a column. Turn it, so that sequences are rows"),
        *(
            (f"id\tA\tB\nASV0\t{text}\t1\nASV1\t{text}\t1\n", f"has {text!r} reads of 'ASV0' in 'A'")
            for text in ("1,000", "1.000", "1,0", "1 000", "1\u202f000", "1'000", "1.000.000")
        ),
    ],
)
def test_wrong_tables_are_refused(text, message, folder, tmp_path, capsys):
    (tmp_path / "table.tsv").write_text(text)
    words = ["identify", folder / "asvs.fasta", tmp_path / "n.csv", "--references", folder / "references.csv"]
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, [*words, "--counts", tmp_path / "table.tsv"])))
    assert stopped.value.code == 1 and message in capsys.readouterr().err
    assert not (tmp_path / "n.csv").exists()


def test_rows_of_no_sequence_are_told(folder, tmp_path, capsys):
    (tmp_path / "more.tsv").write_text((folder / "table.tsv").read_text() + "ASV9\t1\t1\t2\n")
    words = ["identify", folder / "asvs.fasta", tmp_path / "n.csv", "--references", folder / "references.csv"]
    main(list(map(str, [*words, "--counts", tmp_path / "more.tsv"])))
    assert "1 row of --counts is of no sequence, and left out." in capsys.readouterr().out


def test_only_samples_are_counted(folder):
    counts = read_counts(folder / "table.tsv")
    assert counts.samples == ["lake", "wood"] and counts.totals(["ASV1;size=4", "ASV0"]) == [7, 3]
    assert read_counts(folder / "wide.csv").reads == counts.reads
    with pytest.raises(ValueError, match="'1000000000001' reads of 'a' in 'n'"):
        whole_numbers("t.csv", "n", pa.chunked_array([["1000000000001"]]), ["a"])


def test_tables_of_other_programs(tmp_path):
    """The line of biom above the names, numbers of R, and columns of swarm that are not samples."""
    path = tmp_path / "table.tsv"
    path.write_text("# Constructed from biom file\n#OTU ID\tlake\twood\nA\t1.0\t1e+05\n")
    assert read_counts(path).reads == {"A": [1, 100_000]}
    path.write_text("OTU\ttotal\tcloud\tabundance\tspread\tidentity\tlake\twood\n1\t10\t3\t9\t2\t100.0\t4\t6\n")
    counts = read_counts(path)
    assert counts.reads == {"1": [4, 6]} and counts.others == ("total", "cloud", "abundance", "spread", "identity")


#: Ways in which R writes a table of DADA2: samples as rows or as columns, with and without a name above the rows.
SEQTABS = {
    "write.csv(seqtab)": lambda s: f'"","{s[0]}","{s[1]}","{s[2]}"\n"lake",1,0,5\n"wood",2,7,0\n',
    "write.table(seqtab)": lambda s: f'"{s[0]}" "{s[1]}" "{s[2]}"\n"lake" 1 0 5\n"wood" 2 7 0\n',
    "write.csv(t(seqtab))": lambda s: f'"","lake","wood"\n"{s[0]}",1,2\n"{s[1]}",0,7\n"{s[2]}",5,0\n',
    "write.table(t(seqtab))": lambda s: f'"lake"\t"wood"\n"{s[0]}"\t1\t2\n"{s[1]}"\t0\t7\n"{s[2]}"\t5\t0\n',
    "names that are not ASCII": lambda s: f"sequence,lac é,wood\n{s[0]},1,2\n{s[1]},0,7\n{s[2]},5,0\n",
    "with taxonomy": lambda s: f"sequence,Order,lake,wood\n{s[0]},NA,1,2\n{s[1]},Diptera,0,7\n{s[2]},NA,5,0\n",
}


def sequences_of(folder):
    return [line for line in (folder / "asvs.fasta").read_text().splitlines() if line[0] != ">"]


@pytest.mark.parametrize("way", SEQTABS)
def test_a_table_of_dada2_has_its_sequences(way, folder, tmp_path):
    """Sequences as names are ASV1 to ASV3 in their order."""
    path = tmp_path / "seqtab.csv"
    path.write_text(SEQTABS[way](sequences_of(folder)), encoding="utf-8")
    table = read_sequences(path)
    assert table["dna_barcode"].to_pylist() == sequences_of(folder)
    assert dict(zip(table["processid"].to_pylist(), [[1, 2], [0, 7], [5, 0]], strict=True)) == read_counts(path).reads
    assert read_counts(path).samples == [*(["lac é"] if "ASCII" in way else ["lake"]), "wood"]
    assert way != "with taxonomy" or table["order"].to_pylist() == [None, "Diptera", None]


@pytest.mark.parametrize(
    "text",
    [
        *("{0},1\n{1},2\n", "{0},1,2\n{1},2,3\n", "P1,{0}\nP2,NA\nP3,{1}\n", "P1,{0}\nP2,ACGTACGT\n"),
        *("1,{0}\n2,\n3,{1}\n", "sequence,name\n{0},1\n{1},2\n", "sequence,length\n{0},60\n{1},60\n"),
        *("seq,species,year\n{0},Apis mellifera,2010\n", "seq,sample,count\n{0},1,5\n{0},2,7\n"),
        *("seq,count,length\n{0},5,60\n", "id,sequence\n1,{0}\n2,{1}\n", "sequence,id\n{0},1\n{1},2\n"),
    ],
)
def test_other_tables_with_sequences_are_no_tables_of_reads(text, tmp_path):
    """Their first records were names of columns, and their lengths, years and ids were reads."""
    path = tmp_path / "reads.csv"
    path.write_text(text.format("ACGTTGCA" * 8, "TTGCACGT" * 8))
    assert own_counts(path) is None
    if not {"id", "sequence"} <= set(text.split("\n")[0].split(",")):
        with pytest.raises(ValueError, match="has no column of ids"):
            read_sequences(path)


def test_cells_of_tables_of_dada2(tmp_path):
    """Empty cells count as 0 reads; names have spaces in a table with commas; samples are called 1 and 2."""
    dna, path = "ACGTTGCA" * 8, tmp_path / "seqtab.csv"
    path.write_text(f"sequence,taxon,lake,wood\n{dna},Apis mellifera ligustica x,3,2\n{dna}A,,,5\n")
    assert own_counts(path).reads == {"ASV1": [3, 2], "ASV2": [0, 5]}
    path.write_text(f"1 2\n{dna} 3 4\n")
    assert own_counts(path).reads == {"ASV1": [3, 4]} and own_counts(path).samples == ["1", "2"]


@pytest.mark.parametrize("way", ['s{i} count={n}; merged_sample={{"A": 2}};', 's{i} {{"count":{n},"obiclean":true}}'])
def test_reads_in_headers_of_obitools(way, folder, tmp_path, capsys):
    """5, 6 and 7 reads; they counted as one each."""
    reads = (f">{way.format(i=i, n=i + 5)}\n{one}\n" for i, one in enumerate(sequences_of(folder)))
    (tmp_path / "uniq.fasta").write_text("".join(reads) + f">s9\n{sequences_of(folder)[0]}\n")
    words = ["identify", tmp_path / "uniq.fasta", tmp_path / "n.csv", "--references", folder / "references.csv"]
    main(list(map(str, [*words, "--abundance", tmp_path / "taxa.csv"])))
    assert "counts as one" not in capsys.readouterr().out
    assert [(row["id"], row["size"]) for row in read(tmp_path / "n.csv")] == [
        *(("s0", "5"), ("s1", "6"), ("s2", "7"), ("s9", "1"))
    ]
    assert sum(int(row["reads"]) for row in read(tmp_path / "taxa.csv")) == 19


def test_reads_of_a_table_of_dada2_reach_the_abundances(folder, tmp_path, capsys):
    """Without an option: 6 reads of lake and 9 of wood; a blank without a read keeps its column."""
    (tmp_path / "seqtab.csv").write_text(SEQTABS["write.csv(seqtab)"](sequences_of(folder)) + '"blank",0,0,0\n')
    words = ["identify", tmp_path / "seqtab.csv", tmp_path / "n.csv", "--references", folder / "references.csv"]
    main(list(map(str, [*words, "--least", "0", "--abundance", tmp_path / "taxa.csv"])))
    assert "seqtab.csv: 15 reads of 3 sequences in 3 samples (lake, wood, blank)." in capsys.readouterr().out
    sizes = [(row["id"], int(row["size"])) for row in read(tmp_path / "n.csv")]
    assert sizes == [("ASV1", 3), ("ASV2", 7), ("ASV3", 5)]
    taxa = read(tmp_path / "taxa.csv")
    assert [sum(int(row[sample]) for row in taxa) for sample in ("lake", "wood", "blank")] == [6, 9, 0]


def test_odd_tables_of_dada2_are_refused(tmp_path):
    path, dna = tmp_path / "seqtab.csv", "ACGT" * 20
    path.write_text(f'"","{dna}"\n"lake",1\n"lake",2\n')
    with pytest.raises(ValueError, match="has the sample 'lake' more than once"):
        read_sequences(path)
    path.write_text(f'"","{dna}"\n"lake",1\n"wood",2,3\n')
    with pytest.raises(ValueError, match="row 2 has 3 cells instead of 2"):
        read_sequences(path)
    path.write_text(f'"","{dna}"\n\n"lac é",-1\n', encoding="latin-1")
    with pytest.raises(ValueError, match="is not text in utf-8 .* --encoding latin-1"):
        read_sequences(path)
    with pytest.raises(ValueError, match="no column of whole numbers"):
        read_counts(path, "latin-1")
    path.write_text("id\tlake\n")
    with pytest.raises(ValueError, match="has names of columns and no rows"):
        read_counts(path)
    path.write_text(f"P1,{dna}\nP2,{dna}\n")  # no names of columns
    with pytest.raises(ValueError, match="Its first line seems to be a record"):
        read_sequences(path)


def test_a_size_that_no_sequence_has_is_refused(folder, tmp_path, capsys):
    """It was a fault of the program: too large for 64 bits."""
    (tmp_path / "large.fasta").write_text(f">a;size={10**22}\n{'ACGT' * 50}\n")
    words = ["identify", tmp_path / "large.fasta", tmp_path / "n.csv", "--references", folder / "references.csv"]
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    assert stopped.value.code == 1 and "is too large for a number of reads. Correct the id." in capsys.readouterr().err

"""Reference libraries in the common formats: all give the same names."""

import csv
import gzip
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_references import records, write_table

from bioscan_hf.cli.identify import Formats
from bioscan_hf.identification.formats import FORMATS as KNOWN
from bioscan_hf.identification.formats import _id_of, read_references
from bioscan_hf.identification.lineages import by_position, from_name, midori2

ROWS = [
    {**row, "genus": name.split()[0], "species": name, "phylum": "Arthropoda", "family": "Tineidae"}
    for row, name in zip(
        records(np.random.default_rng(4), 1, 1, 2, 1, 2),
        ("Acrolophus forbesi", "Acrolophus forbesi", "Athetis mindara", "Athetis mindara"),
        strict=True,
    )
]
LINEAGE = ("phylum", "class", "order", "family", "genus", "species")


def lineage(row, between=";", prefix=None):
    names = ["Animalia", *(row[rank] for rank in LINEAGE)]
    return between.join(
        f"{letter}{prefix}{name}" if prefix else name for letter, name in zip("kpcofgs", names, strict=True)
    )


def fasta(header):
    return "".join(f">{header(row)}\n{row['dna_barcode'][:400]}\n{row['dna_barcode'][400:]}\n" for row in ROWS)


def table(names, cells, delimiter):
    lines = [names, *([cell(row) for cell in cells] for row in ROWS)]
    return "".join(delimiter.join(line) + "\n" for line in lines)


def column(name):
    return lambda row: row[name] or ""


def bold_table(names, marker):
    columns = {**{name: column(rank) for rank, name in names.items()}, marker: lambda row: "COI-5P"}
    return table([*columns], [*columns.values()], "\t")


BCDM = {"processid": "processid", **{rank: rank for rank in LINEAGE}, "dna_barcode": "nuc"}
V3 = {"processid": "processid", **{rank: f"{rank}_name" for rank in LINEAGE}, "dna_barcode": "nucleotides"}

#: Name -> files (name -> text), format that is told, ranks that it has.
FORMATS = {
    "BCDM": ({"x.tsv": bold_table(BCDM, "marker_code")}, "table", LINEAGE),
    "BOLD 3": ({"x.tsv": bold_table(V3, "markercode")}, "table", LINEAGE),
    "BOLD FASTA": ({"x.fasta": fasta(lambda r: f"{r['processid']}|{r['species']}|COI-5P|AB1")}, "bold", LINEAGE[4:]),
    "NCBI": (
        {"x.fa": fasta(lambda r: f"AB5{r['processid'][1:]}.1 {r['species']} voucher 06 (COI) gene, partial cds")},
        "ncbi",
        LINEAGE[4:],
    ),
    "SINTAX": (
        {"x.fasta": fasta(lambda r: f"{r['processid']};tax={lineage(r, ',', ':').replace(' ', '_')};")},
        "sintax",
        LINEAGE,
    ),
    "QIIME 2": (
        {
            "x.fasta": fasta(column("processid")),
            "t.tsv": "Feature ID\tTaxon\n" + "".join(f"{r['processid']}\t{lineage(r, '; ', '__')}\n" for r in ROWS),
        },
        "fasta",
        LINEAGE,
    ),
    "DADA2": ({"x.fasta": fasta(lambda r: lineage(r) + ";")}, "dada2", LINEAGE),
    "RDP": ({"x.fasta": fasta(lambda r: f"{r['processid']}\tRoot;{lineage(r)}")}, "rdp", LINEAGE),
    "MIDORI2": (
        {
            "x.fasta": fasta(
                lambda r: (
                    f"AB5.1.<1.>658 root_1;{';'.join(f'{name}_{i}7' for i, name in enumerate(lineage(r).split(';')))}"
                )
            )
        },
        "midori2",
        LINEAGE,
    ),
    "MIDORI2 as published": (
        {"x.fasta": fasta(lambda r: f"AB5.1.<1.>658###root_1;{lineage(r).replace(';', '_7;').replace(' ', '_')}_7")},
        "midori2",
        LINEAGE,
    ),
    "CRABS": (
        {
            "x.txt": "".join(
                "\t".join([r["processid"], r["species"], "7", *lineage(r).split(";"), r["dna_barcode"]]) + "\n"
                for r in ROWS
            )
        },
        "crabs",
        LINEAGE,
    ),
    "BOLD 5": (
        {
            "x.fasta": fasta(
                lambda r: (
                    f"{r['processid']}|COI-5P|Canada|{','.join(lineage(r).split(';')[:5])},None,None,{r['genus']},"
                    f"{r['species']},None"
                )
            )
        },
        "bold5",
        LINEAGE,
    ),
    "NCBI with gi": (
        {"x.fa": fasta(lambda r: f"gi|7|gb|AB5{r['processid'][1:]}.1| {r['species']} voucher 06 (COI) gene")},
        "ncbi",
        LINEAGE[4:],
    ),
    "NCBI with organism": (
        {"x.fa": fasta(lambda r: f"AB5{r['processid'][1:]}.1 [organism={r['species']}] COI")},
        "ncbi",
        LINEAGE[4:],
    ),
    "names alone": ({"x.fa": fasta(lambda r: f"seq_{r['processid']} {r['species']}")}, "names", LINEAGE[4:]),
    "DADA2 without a kingdom": (
        {"x.fasta": fasta(lambda r: lineage(r).partition(";")[2] + ";")},
        "dada2",
        LINEAGE,
    ),
    "RDP with a blank": (
        {"x.fasta": fasta(lambda r: f"{r['processid']} cellularOrganisms;{lineage(r)}")},
        "rdp",
        LINEAGE,
    ),
    "MIDORI2 with a tab": (
        {
            "x.fasta": fasta(
                lambda r: f"AB5.1.<1.>658\troot_1;{';'.join(f'{name}_7' for name in lineage(r).split(';'))}"
            )
        },
        "midori2",
        LINEAGE,
    ),
    "SILVA": (
        {
            "x.fasta": fasta(column("processid")),
            "t.tsv": "Feature ID\tTaxon\n"
            + "".join(
                f"{r['processid']}\t{'; '.join(f'D_{i}__{name}' for i, name in enumerate(lineage(r).split(';')))}\n"
                for r in ROWS
            ),
        },
        "fasta",
        LINEAGE,
    ),
    "table of lineages": (
        {"x.csv": table(["id", "taxonomy", "sequence"], [column("processid"), lineage, column("dna_barcode")], ",")},
        "table",
        LINEAGE,
    ),
    "table of scientific names": (
        {
            "x.csv": table(
                ["Sequence ID", "scientificName", "DNA sequence"],
                [column("processid"), column("species"), column("dna_barcode")],
                ",",
            )
        },
        "table",
        LINEAGE[4:],
    ),
    "plain table": (
        {
            "x.csv": table(
                ["id", *LINEAGE, "sequence"], [column("processid"), *map(column, LINEAGE), column("dna_barcode")], ","
            )
        },
        "table",
        LINEAGE,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_names(name, tmp_path):
    files, told, ranks = FORMATS[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    found = read_references([tmp_path / file for file in files])
    assert told in found.formats.values() and not found.notes
    assert found.table["dna_barcode"].to_pylist() == [row["dna_barcode"] for row in ROWS]
    for rank in LINEAGE:
        expected = [row[rank] if rank in ranks else None for row in ROWS]
        assert found.table[rank].to_pylist() == expected, rank


def test_the_command_knows_every_format():
    assert get_args(Formats) == KNOWN


def test_our_own_tables_need_no_split_and_gzip_is_read(release, tmp_path):
    """Records of all splits serve; a gzipped FASTA is read as the plain one."""
    with open(next(release.rglob("*.csv")), newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dna_barcode"]]
    assert len(read_references([release]).table) == len(rows)
    packed = tmp_path / "x.fasta.gz"
    packed.write_bytes(gzip.compress(FORMATS["SINTAX"][0]["x.fasta"].encode()))
    assert read_references([packed]).table["species"].to_pylist() == [row["species"] for row in ROWS]


def test_records_of_several_files_count_once(tmp_path):
    """Downloads that overlap: a family, and its order. Other records of one id, and repeats of one file, are kept."""
    rows = records(np.random.default_rng(3), orders=1, families=1, genera=1, species=2, each=2)
    other = rows[1] | {"species": "Apis altera"}
    write_table(tmp_path / "family.csv", [*rows[:2], rows[0]])
    write_table(tmp_path / "order.csv", [*rows, other])
    found = read_references([tmp_path / "family.csv", tmp_path / "order.csv"])
    assert found.table["processid"].to_pylist() == [row["processid"] for row in (*rows[:2], rows[0], *rows[2:], other)]
    assert "2 records of several files, which count once" in found.notes
    assert len(read_references([tmp_path / "order.csv"]).table) == 5


def test_other_markers_and_records_without_a_sequence_are_told(tmp_path):
    text = FORMATS["BCDM"][0]["x.tsv"].splitlines()
    text[1] = text[1].replace("COI-5P", "28S")
    text[2] = text[2].replace(ROWS[1]["dna_barcode"], "None")
    (tmp_path / "x.tsv").write_text("\n".join(text) + "\n")
    found = read_references([tmp_path / "x.tsv"])
    assert len(found.table) == 2
    assert "1 record of the marker 28S" in found.notes[0] and "1 record without a sequence" in found.notes[0]
    assert len(read_references([tmp_path / "x.tsv"], marker=None).table) == 3


def test_names_have_one_form_in_tables_too(tmp_path):
    """Spaces, authors and years make no second species; markers of missing values are no names."""
    names = ["Apis mellifera", " Apis  mellifera", "Apis mellifera Linnaeus, 1758", "Apis mellifera L.", "NA", "None"]
    lines = [f'{i},"{name}",{ROWS[0]["dna_barcode"]}' for i, name in enumerate(names)]
    (tmp_path / "x.csv").write_text("\n".join(["id,species,sequence", *lines]) + "\n")
    assert read_references([tmp_path / "x.csv"]).table["species"].to_pylist() == ["Apis mellifera"] * 4 + [None] * 2


def test_what_cannot_be_read_says_what_to_do(tmp_path):
    (tmp_path / "ids.fasta").write_text(">a\nACGT\n>b\nACGT\n")
    with pytest.raises(ValueError, match=r"ids without names of taxa, such as 'a'. Give the table of taxonomy"):
        read_references([tmp_path / "ids.fasta"])
    (tmp_path / "other.tsv").write_text("Feature ID\tTaxon\nx\tk__Animalia; p__Arthropoda\n")
    with pytest.raises(ValueError, match="No id of the FASTA is in the table of taxonomy: 'a' against 'x'"):
        read_references([tmp_path / "ids.fasta", tmp_path / "other.tsv"])
    with pytest.raises(ValueError, match="Only tables of taxonomy were given"):
        read_references([tmp_path / "other.tsv"])
    with pytest.raises(FileNotFoundError, match="The file of references .* does not exist"):
        read_references([tmp_path / "absent.fasta"])
    with pytest.raises(ValueError, match="The format 'sillva' is unknown"):
        read_references([tmp_path / "ids.fasta"], format="sillva")


def test_a_table_without_an_id_says_what_to_rename(tmp_path):
    (tmp_path / "x.csv").write_text(f"label,species,sequence\n1,Apis mellifera,{ROWS[0]['dna_barcode']}\n")
    with pytest.raises(ValueError, match=r"no column of ids .* Rename one in the file\.$"):
        read_references([tmp_path / "x.csv"])


def test_references_without_names_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text(f"id,collector,sequence\n1,Apis,{ROWS[0]['dna_barcode']}\n")
    with pytest.raises(ValueError, match="x.csv: no record has a name of a taxon or a BIN, so reads would get none"):
        read_references([tmp_path / "x.csv"])
    (tmp_path / "x.csv").write_text(f"id,bin_uri,sequence\n1,BOLD:AAA0001,{ROWS[0]['dna_barcode']}\n")
    assert read_references([tmp_path / "x.csv"]).table["dna_bin"].to_pylist() == ["BOLD:AAA0001"]


def test_other_markers_of_bold_5_are_left_out(tmp_path):
    headers = [
        f">P{i}|{marker}|Canada|Animalia,Arthropoda,Insecta,Diptera,Culicidae,None,None,Culex,Culex pipiens,None"
        for i, marker in enumerate(("COI-5P", "28S"))
    ]
    (tmp_path / "x.fasta").write_text("".join(f"{header}\n{ROWS[0]['dna_barcode']}\n" for header in headers))
    found = read_references([tmp_path / "x.fasta"])
    assert found.table["processid"].to_pylist() == ["P0"] and found.table["family"].to_pylist() == ["Culicidae"]
    assert found.notes == ["left out 1 record of markers other than COI-5P (--marker)"]
    assert len(read_references([tmp_path / "x.fasta"], marker=None).table) == 2


def test_lineages_of_other_depths():
    """Named ranks decide; markers of nothing are no names; an author is cut off."""
    eight = by_position(["Animalia;Arthropoda;Insecta;Lepidoptera;Noctuidae;Noctuinae;Noctua;Noctua pronuba"])[0]
    assert eight["subfamily"] == "Noctuinae" and eight["genus"] == "Noctua"
    named = by_position(["Insecta;Diptera;NA;unclassified"], ["class", "order", "family", "genus"])[0]
    assert named == {"class": "Insecta", "order": "Diptera"}
    long = "cellularOrganisms;Eukaryota;Metazoa;Arthropoda;Insecta;Diptera;Culicidae;Culex;Culex pipiens"
    assert by_position([long])[0]["phylum"] == "Arthropoda" and by_position([long])[0]["species"] == "Culex pipiens"
    assert by_position(["Diptera;Culicidae;Culex;Culex pipiens"])[0] == {
        **{"order": "Diptera", "family": "Culicidae"},
        **{"genus": "Culex", "species": "Culex pipiens"},
    }
    sparse = ["Arthropoda;Insecta;Diptera;NA;NA;NA"] * 3 + ["Arthropoda;Insecta;Diptera;Culicidae;Culex;Culex pipiens"]
    assert [lineage["order"] for lineage in by_position(sparse)] == ["Diptera"] * 4
    first = ["Animalia;Arthropoda;Insecta;Diptera;Culicidae;Culex", ";Arthropoda;Insecta;Diptera;Culicidae;Culex;"]
    assert by_position(first)[0] == by_position(first)[1]  # an empty kingdom moves nothing
    assert by_position(["NA;Arthropoda;Insecta;Diptera;Culicidae;Culex;Culex pipiens"])[0]["genus"] == "Culex"
    with pytest.raises(ValueError, match="The lineages have up to 6 names"):  # no kingdom and no family: unclear
        by_position(["Arthropoda;Insecta;Diptera;NA;NA;NA"])
    with pytest.raises(ValueError, match="The lineages have up to 8 names"):  # a rank between phylum and class
        by_position(["Animalia;Arthropoda;Hexapoda;Insecta;Diptera;Culicidae;Culex;Culex pipiens"])
    with pytest.raises(ValueError, match="The lineages have up to 2 names"):
        by_position(["Diptera;Culex"])
    assert from_name("Apis mellifera Linnaeus 1758") == {"genus": "Apis", "species": "Apis mellifera"}
    assert from_name("Chironomidae sp. BOLD:AAA") == {} and from_name("Apis sp. 1BIO")["genus"] == "Apis"


def test_parquet_needs_no_other_rank_than_those_it_has(tmp_path):
    """Columns with usual names are found, names and barcodes get their one form, and splits are not needed."""
    file = tmp_path / "own.parquet"
    columns = {"ID": [1, 2], "Sequence": ["ac-gt", "ACGA"], "Genus": ["Apis", "unknown"], "species": ["Apis  m", None]}
    pq.write_table(pa.table(columns), file)
    found = read_references([file])
    assert found.formats == {str(file): "dataset"}
    (first, second) = found.table.to_pylist()
    assert (first["processid"], first["dna_barcode"], first["genus"], first["species"]) == (
        "1",
        "ACGT",
        "Apis",
        "Apis m",
    )
    assert second["genus"] is None and second["order"] is None
    pq.write_table(pa.table(columns | {"genus_name": ["Apis", "Bombus"]}), file)
    with pytest.raises(ValueError, match="'Genus' and 'genus_name' both stand for 'genus', but differ in row 2"):
        read_references([file])
    pq.write_table(pa.table(columns | {"Sequence": ["ACGT", "not DNA!"]}), file)
    with pytest.raises(ValueError, match="the barcode of '2' is not DNA: 'NOTDNA!'. Allowed are"):
        read_references([file])
    pq.write_table(pa.table({"x": [1]}), file)
    with pytest.raises(ValueError, match="has no column 'processid'. Its columns are 'x'"):
        read_references([file])


def test_a_table_with_splits_is_read_as_any_table(tmp_path):
    """Whatever its places and ids are, and in its encoding; with splits asked for, as a dataset."""
    path = tmp_path / "table.csv"
    lines = ["processid,dna_barcode,species,split,coord-lat,country"]
    lines += [
        f"sample {i % 2},ACGTACG{base},Apis é{base},{split},45°N,Côte"
        for i, (base, split) in enumerate(zip("ACGT", ("train", "test", "Train", ""), strict=True))
    ]
    path.write_text("\n".join(lines), encoding="latin-1")
    found = read_references([path], encoding="latin-1")
    assert found.formats == {str(path): "table"} and len(found.table) == 4
    assert found.table["species"].to_pylist()[0] == "Apis éA"
    with pytest.raises(ValueError, match="build it by `bioscan-hf build .* --encoding latin-1`"):
        read_references([path], encoding="latin-1", split="train")


def test_faults_of_taxonomies_are_told(tmp_path):
    """A file in another encoding, a line without a lineage, and an id with two lineages; equal lines are one."""
    fasta, taxa, crabs = tmp_path / "a.fasta", tmp_path / "taxa.tsv", tmp_path / "crabs.tsv"
    fasta.write_text(">A\nACGTAC\n>B\nACGTAA\n")
    lines = "A\tk__Animalia; g__Apis; s__Apis é\nB\tk__Animalia; g__Bombus; s__\n"
    taxa.write_text(lines, encoding="latin-1")
    with pytest.raises(ValueError, match="taxa.tsv' holds ids or names that are not utf-8 .*--encoding latin-1"):
        read_references([fasta, taxa])
    assert read_references([fasta, taxa], encoding="latin-1").table["genus"].to_pylist() == ["Apis", "Bombus"]
    crabs.write_text("\t".join(["A", "é", "1", *"PCOFGS", "x", "ACGT" * 20]) + "\n", encoding="latin-1")
    with pytest.raises(ValueError, match="crabs.tsv' holds ids or names that are not utf-8"):
        read_references([crabs])
    taxa.write_text(lines + lines + "C\n")
    with pytest.raises(ValueError, match="is read as ids and lineages; line 5 has not 2 cells"):
        read_references([fasta, taxa])
    taxa.write_text(lines + lines)
    assert read_references([fasta, taxa]).table["genus"].to_pylist() == ["Apis", "Bombus"]
    taxa.write_text(lines + lines.replace("Apis", "Osmia"))
    with pytest.raises(ValueError, match="The taxonomy names 'A' in two ways. Keep one line for each id"):
        read_references([fasta, taxa])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Insecta environmental sample clone 5 COI", {}),
        ("Insecta sp. BOLD:AAA1234 voucher", {}),
        ("Araneae sp. 5", {}),
        ("Arthropoda environmental sample", {}),
        ("Spodoptera sp. X", {"genus": "Spodoptera"}),
        ("Spodoptera frugiperda voucher", {"genus": "Spodoptera", "species": "Spodoptera frugiperda"}),
        ("Apis gen. sp.", {"genus": "Apis"}),
        ("Apis mitochondrion, complete genome", {"genus": "Apis"}),
    ],
)
def test_names_above_a_genus_are_no_genus(text, expected):
    """One such record beside each species took all species names from reads."""
    assert from_name(text) == expected


def test_midori2_without_a_rank():
    """A rank that is filled from another one is missing, and the id ends before the lineage."""
    header = "MK1.1.<1.>658###root_1;Eukaryota_2759;Arthropoda_6656;Insecta_7;order_Insecta_7;{};Apis_7;Apis_mel_8"
    headers = [header.format(family) for family in ("Apidae_7", "family_Insecta_50557", "Apidae_7")]
    first, second, _ = midori2(headers)
    assert "order" not in first and first["family"] == "Apidae" and "family" not in second
    assert second["species"] == "Apis mel" and _id_of(headers[0]) == "MK1.1.<1.>658"

"""Files of sequences arrive whole, whatever their line ends, blocks and packing; what is wrong is named by place."""

import gzip
import re

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bioscan_hf.barcodes import clean_barcodes
from bioscan_hf.dataset import sequences
from bioscan_hf.dataset.letters import rules
from bioscan_hf.dataset.sequences import is_sequence_file, read_sequences
from bioscan_hf.encoders.embed import embed
from bioscan_hf.encoders.kmers import kmer_encoder
from bioscan_hf.schema import COLUMNS, MISSING_TAXA

RECORDS = {"P1": "ACGTACGTNN", "P2": "GGCC", "P-3|x": "TTTTTTTTACGTACGT"}


def fasta(records, width=4, end="\n"):
    lines = []
    for name, barcode in records.items():
        lines += [f">{name} Aus bus", *(barcode[i : i + width] for i in range(0, len(barcode), width))]
    return end.join(lines) + end


def fastq(records):
    return "".join(f"@{name} lane 1\n{barcode}\n+\n{'@' * len(barcode)}\n" for name, barcode in records.items())


def table(records, delimiter=","):
    rows = [f"{name}{delimiter}{barcode}" for name, barcode in records.items()]
    return "\n".join([f"id{delimiter}sequence", *rows]) + "\n"


def write(path, content):
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path, **options):
    found = read_sequences(path, **options)
    return dict(zip(found["processid"].to_pylist(), found["dna_barcode"].to_pylist(), strict=True))


@pytest.mark.parametrize("block", [16, 1 << 23])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.fasta", fasta(RECORDS)),
        ("one_line_a_record.fa", fasta(RECORDS, width=1000)),
        ("windows.fna", fasta(RECORDS, end="\r\n")),
        ("old_mac.fas", fasta(RECORDS, end="\r")),
        ("bom.fasta", b"\xef\xbb\xbf" + fasta(RECORDS).encode()),
        ("blank_lines.fasta", "\n\n" + fasta(RECORDS, end="\n\n") + "\n"),
        ("no_last_line_end.fasta", fasta(RECORDS).rstrip("\n")),
        ("spaces.fasta", fasta(RECORDS).replace("ACGT\n", "AC GT \t\n")),
        ("latin1_description.fasta", fasta(RECORDS).replace("Aus", "Aüs").encode("latin-1")),
        ("no_ending", fasta(RECORDS)),
        ("a.fastq", fastq(RECORDS)),
        ("windows.fq", fastq(RECORDS).replace("\n", "\r\n")),
        ("blank_lines_around.fq", "\n" + fastq(RECORDS) + "\n\n\n\n\n"),
        ("no_last_line_end.fq", fastq(RECORDS).rstrip("\n")),
        ("a.csv", table(RECORDS)),
        ("a.tsv", table(RECORDS, "\t")),
        ("tabs.csv", table(RECORDS, "\t")),
        ("semicolons.csv", table(RECORDS, ";")),
        ("windows.csv", table(RECORDS).replace("\n", "\r\n")),
        ("bom.csv", b"\xef\xbb\xbf" + table(RECORDS).encode()),
        ("blank_lines.csv", "\n" + table(RECORDS).replace("\n", "\n\n")),
        ("quoted.csv", 'id,sequence,note\n"P1","ACGTACGTNN","one, \ntwo"\nP2,GGCC,\nP-3|x,TTTTTTTTACGTACGT,é\n'),
    ],
)
def test_every_form_gives_the_same_records(name, content, packed, block, tmp_path, monkeypatch):
    """Blocks of 16 bytes end within records, headers, line ends and the gaps between them."""
    monkeypatch.setattr(
        sequences, "_BLOCK_BYTES", block if "csv" not in name and "tsv" not in name else max(block, 60)
    )
    assert read(write(tmp_path / (name + packed), content)) == RECORDS


def test_ranks_of_a_table_come_along(tmp_path):
    """Under our names, in the order of the ranks, null where a cell is empty; other columns do not."""
    names = "Nucleotides,species_name,bin_uri,order,note,processid,sampleid"
    text = f"{names}\nACGT,Aus bus,BOLD:1,,x,P1,S1\nGG,,,Diptera,,P2,S2\n"
    found = read_sequences(write(tmp_path / "a.csv", text))
    assert found.column_names == ["processid", "dna_barcode", "order", "species", "dna_bin"]
    assert found.to_pylist()[0] == {
        "processid": "P1",
        "dna_barcode": "ACGT",
        "order": None,
        "species": "Aus bus",
        "dna_bin": "BOLD:1",
    }
    assert found["order"].to_pylist() == [None, "Diptera"] and set(found.schema.types) == {pa.string()}
    chosen = read_sequences(tmp_path / "a.csv", id_column="sampleid", sequence_column="Nucleotides")
    assert chosen["processid"].to_pylist() == ["S1", "S2"]


def test_cleaning(tmp_path):
    """By hand: acgtuU -> ACGTTT; IUPAC codes of either case stay or become N, N at the end is cut; no gaps."""
    path = write(tmp_path / "a.fasta", ">P1\nacgtuU\nRyswKmbdhv-\nNACGTnn--\n")
    assert read(path, clean="barcode") == {"P1": "ACGTTT" + 10 * "N" + "NACGT"}
    assert read(path) == {"P1": "ACGTTTRYSWKMBDHVNACGTNN"}
    raw = write(tmp_path / "b.fasta", ">P1\nAC-GTRY\n")
    assert read(raw) == {"P1": "ACGTRY"}
    assert read(write(tmp_path / "c.fasta", ">P1\n..AC--GT..\n")) == {"P1": "ACGT"}


@settings(max_examples=200, deadline=None)
@given(st.text("acgtnuACGTNURYKMrykm- \tXé!", max_size=30))
@example("nA-")
def test_cleaning_is_that_of_columns(text):
    """`clean_barcodes`, which cleans Python strings, gives the same, or refuses the same."""
    letters = rules("barcode")
    bare = "".join(text.split()).replace("-", "")
    if {text.strip().lower(), bare.lower()} & set(MISSING_TAXA):
        assert clean_barcodes([text]) == [""]
        return
    cleaned = text.encode("latin-1").translate(letters.table, letters.removed)
    try:
        expected = clean_barcodes([text])[0]
    except ValueError:
        assert cleaned.translate(None, letters.allowed)
    else:
        assert cleaned.rstrip(letters.rtrim).decode() == expected


def test_duplicates_and_empty_records(tmp_path):
    """Named, and kept only where that is asked for; never dropped."""
    path = write(tmp_path / "a.fasta", ">P1\nACGT\n>P2\n>P1 again\nGG\n>P3\nNN\n")
    with pytest.raises(
        ValueError, match="1 record without a sequence: 'P2'. Remove them, or keep them by --keep-empty"
    ):
        read_sequences(path)
    with pytest.raises(ValueError, match="without a sequence: 'P2', 'P3'"):
        read_sequences(path, clean="barcode")
    with pytest.raises(ValueError, match="occur more than once: 'P1'. Make them unique, or keep them all"):
        read_sequences(path, empty="keep")
    found = read_sequences(path, empty="keep", duplicates="keep")
    assert found["processid"].to_pylist() == ["P1", "P2", "P1", "P3"]
    assert found["dna_barcode"].to_pylist() == ["ACGT", "", "GG", "NN"]
    with pytest.raises(ValueError, match="without a sequence: 'P2'"):
        read_sequences(write(tmp_path / "a.csv", "id,seq\nP1,ACGT\nP2,\n"))


FOREIGN = [
    (
        "a.fasta",
        ">P1\nACGT\n\n>P2\nAC\nGJ\n",
        "'P2' .* line 6 holds 'J'. Allowed are A, C, G, T, U, N, the IUPAC codes",
    ),
    ("a.fasta", b">P1\nAC\xe9T\n", "line 2 holds 'é'"),
    ("a.fasta", ">P1\nACGT\n> \nACGT\n", "record without an id at line 3"),
    ("a.fasta", ">P1|Apis|COI-5P\nACGT\n>\nACGT\n", "record without an id at line 3"),
    ("a.fasta", b">P\xe9 x\nACGT\n", "ids or names that are not utf-8.*encoding='latin-1'"),
    ("a.fasta", "ACGT\n", "is not a FASTA or FASTQ: it begins with 'ACGT.n' instead of > or @"),
    ("a.txt", ";a comment\n>P1\nACGT\n", "begins with ';a comment.*Delete the lines above the first record"),
    ("a.fasta", "<html>", "is a page of the web, not a table, FASTA or FASTQ"),
    ("a.bin", b"\x01\x00\x02", "is not a FASTA or FASTQ"),
    ("a.fasta", "", "is empty"),
    ("a.csv", "\n\n", "is empty"),
    ("a.fasta.zip", b"PK\x03\x04xx", "is compressed with zip. Decompress it, or use gzip"),
    ("a.xlsx", b"PK\x03\x04\x14\0\6\0\x08\0\0\0!\0[Content_Types].xml", "is a workbook. Save its sheet as CSV"),
    ("a.parquet", b"PAR1\x15\4\x15l", "is Parquet. Save it as CSV"),
    ("a.csv", "id,sequence\nP1,ACGT\n".encode("utf-16"), "is text in UTF-16. Save it as UTF-8"),
    ("a.fq", "@P1\nACGT\n+\nIIII\n@P2\nACGT\n+\n", "ends inside the record that begins at line 5"),
    ("a.fq", "@P1\nACGT\n+\nIIII\n@P2\nACGT\n+\nIII\n", "not a FASTQ of four lines per record at line 5"),
    ("a.fq", "@P1\nACGT\n+\nIIII\n@P2\nACGX\n+\nIIII\n", "line 6 holds 'X'"),
    ("a.sam", "@HD\tVN:1\n@SQ\tSN:1\nx\ny\n", "is SAM, not a table, FASTA or FASTQ"),
    ("a.sto", "# STOCKHOLM 1.0\nP1 ACGT\n//\n", "is an alignment in Stockholm format, not a table"),
    ("a.aln", "CLUSTAL W (1.83)\n\nP1 ACGT\n", "is an alignment of Clustal, not a table"),
    ("a.phy", " 2 4\nP1 ACGT\nP2 ACGA\n", "is an alignment in PHYLIP format, not a table"),
    ("a.nex", "#nexus\nbegin data;\n", "is NEXUS, not a table"),
    ("a.meg", "#mega\n!Title x;\n", "is a file of MEGA, not a table"),
    ("a.embl", "ID   X5; SV 1; linear; mRNA; STD; PLN; 1859 BP.\n", "is a file of EMBL, not a table"),
    ("a.rds", gzip.compress(b"X\n\0\0\0\3", mtime=0), r"is a file of R \(write.csv writes tables\), not a table"),
    ("a.biom", '{"id": "x", "format": "Biological Observation Matrix 1.0.0"}', "biom convert --to-tsv"),
    ("b.biom", b"\x89HDF\r\n\x1a\n" + bytes(9), "is BIOM or HDF5. Export it as a table by biom convert --to-tsv"),
    ("a.qza", b"PK\3\4" + bytes(26) + b"8c1f/VERSIONQIIME 2", "is an artifact of QIIME 2. Export what it holds"),
    ("a.fasta", ">P1\nMFADRWLFSTNHKDIGTLYLLFGAWAGVLG\n", "seems to hold proteins: 'P1' is 'MFADRWLFSTNHKDIGTLYL'"),
    ("a.csv", "id,sequence\nP1,ACGT\nP2,AC!T\n", "'P2' .* row 2 holds '!'"),
    ("a.csv", "id,sequence\nP1,ACGT\n,ACGT\n", "has no id in row 2"),
    ("a.csv", "id,sequence\n", "does not hold any sequence"),
    ("a.csv", "id,dna_length\nP1,4\n", "no column of sequences .none of dna_barcode.*columns are 'id', 'dna_length'"),
    ("a.csv", "name,sequence\nP1,ACGT\n", "no column of ids .*Choose one by --id-column \\(in Python id_column="),
    ("a.csv", "id,seq,dna\nP1,ACGT,ACGT\n", "several columns of sequences: seq, dna.*by --sequence-column"),
    ("a.csv", "id,seq,id\nP1,ACGT,P2\n", "has 2 columns 'id'. Rename or remove one"),
    ("a.csv", "id,sequence\nP1,ACGT\nP2\n", "a.csv: line 3 has 1 cell instead of 2.*Correct the file"),
    (
        "a.csv",
        b"id,seq,species\nP1,ACGT,M\xfcller\n",
        "line 2, column species: 'Müller' .*encoding='latin-1'",
    ),
    ("a.txt", "hello\nworld\n", "no column of ids .*columns are 'hello'"),
]


@pytest.mark.parametrize(("name", "content", "message"), FOREIGN)
def test_what_is_wrong_is_named(name, content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_sequences(write(tmp_path / name, content))


def test_places_count_across_blocks(tmp_path, monkeypatch):
    """200 records of three lines, the last letter wrong: line 600 of a FASTA, and of a FASTQ 798."""
    monkeypatch.setattr(sequences, "_BLOCK_BYTES", 100)
    records = {f"P{i}": "ACGTACGT" for i in range(199)} | {"last": "ACGTACGX"}
    with pytest.raises(ValueError, match="'last' .* line 600 holds 'X'"):
        read_sequences(write(tmp_path / "a.fasta", fasta(records)))
    with pytest.raises(ValueError, match="'last' .* line 798 holds 'X'"):
        read_sequences(write(tmp_path / "a.fq", fastq(records)))
    with pytest.raises(ValueError, match="'last' .* row 200 holds 'X'"):
        read_sequences(write(tmp_path / "a.csv", table(records)))


@pytest.mark.parametrize("kind", [fasta, fastq, table])
def test_damaged_gzip_is_told(kind, tmp_path):
    """Cut off within, and rubbish behind the end: neither may pass for a shorter file."""
    path = tmp_path / "a.gz"
    whole = gzip.compress(kind({f"P{i}": "ACGT" * 50 for i in range(500)}).encode(), mtime=0)
    for content in (whole[:-300], whole[:-4], whole + b"rubbish"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be (decompressed|read) to its end .* Is it complete"):
            read_sequences(path)
    path.write_bytes(whole)
    assert len(read_sequences(path)) == 500


def test_latin1_names_are_read_when_told(tmp_path):
    path = write(tmp_path / "a.csv", b"id,seq,species\nP\xe9,ACGT,M\xfcller\n")
    assert read_sequences(path, encoding="latin-1").to_pylist()[0] == {
        "processid": "Pé",
        "dna_barcode": "ACGT",
        "species": "Müller",
    }
    assert read(write(tmp_path / "a.fasta", b">P\xe9\nACGT\n"), encoding="latin-1") == {"Pé": "ACGT"}


def test_bad_options_are_refused(tmp_path):
    path = write(tmp_path / "a.fasta", ">P1\nACGT\n")
    for option in ({"clean": "all"}, {"duplicates": "drop"}, {"empty": "drop"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}='.*' is unknown. Choose"):
            read_sequences(path, **option)
    with pytest.raises(ValueError, match="is a FASTA: it has no columns"):
        read_sequences(path, id_column="id")
    with pytest.raises(ValueError, match="has 0 columns 'name'.*Its columns are 'id', 'seq'"):
        read_sequences(write(tmp_path / "a.csv", "id,seq\nP1,ACGT\n"), id_column="name")
    with pytest.raises(FileNotFoundError, match="No file of sequences at"):
        read_sequences(tmp_path / "nothing.fasta")


def test_a_record_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(sequences, "_LONGEST", 1000)
    for name, start in (("a.fasta", ">P1\n"), ("a.fq", "@P1\n")):
        with pytest.raises(ValueError, match=re.escape("record of over 1,000 bytes at line 1")):
            read_sequences(write(tmp_path / name, start + 1500 * "A"))


def test_table_on_disk_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """Mapped into memory it equals the one held there; a file that is wrong leaves none behind."""
    monkeypatch.setattr(sequences, "_BLOCK_BYTES", 100)
    path, output = tmp_path / "a.fasta", tmp_path / "cache" / "a.arrow"
    write(path, fasta({f"P{i}": "ACGT" * 5 for i in range(100)}))
    seen: list[int] = []

    def progress(stage, done, total):
        seen.append(done)

    before = pa.total_allocated_bytes()
    mapped = read_sequences(path, arrow_file=output, progress=progress)
    assert pa.total_allocated_bytes() - before < 10_000
    assert (
        mapped.equals(read_sequences(path))
        and len(mapped) == 100 == seen[-1]
        and len(seen) > 10
        and seen == sorted(seen)
    )
    output.unlink()
    for wrong, message in (
        (">last\nX\n", "'last'"),
        (">P3\nA\n", "more than once: 'P3'"),
        (">P\n", "without a .*'P'"),
    ):
        write(path, fasta({f"P{i}": "ACGT" for i in range(100)}) + wrong)
        with pytest.raises(ValueError, match=message):
            read_sequences(path, arrow_file=output)
        assert not any(output.parent.iterdir())


def test_embed_takes_what_is_read(tmp_path):
    found = read_sequences(write(tmp_path / "a.fasta", ">P1\nACGT\n>P2\n>P3\nGGGG\n"), empty="keep")
    result = embed(*kmer_encoder(2), found)
    assert result.processids == ["P1", "P2", "P3"] and result.valid.tolist() == [True, False, True]
    assert result.embeddings[0].any() and (result.embeddings[0] != result.embeddings[2]).any()


def test_which_reader_a_file_is_for(tmp_path):
    """A table of specimens with splits is a release, whatever other columns it has."""
    everything = ",".join(COLUMNS) + "\n"
    assert not is_sequence_file(write(tmp_path / "metadata.csv", everything))
    assert not is_sequence_file(write(tmp_path / "metadata.tsv.gz", everything.replace(",", "\t")))
    assert not is_sequence_file(write(tmp_path / "few.csv", "id,nuc,split\n"))
    assert is_sequence_file(write(tmp_path / "less.csv", everything.replace("split", "notes")))
    assert is_sequence_file(write(tmp_path / "a.fasta.gz", fasta(RECORDS)))
    assert is_sequence_file(write(tmp_path / "a.fq", fastq(RECORDS)))
    assert not is_sequence_file(write(tmp_path / "a.jsonld", "[]"))
    assert not is_sequence_file(tmp_path) and not is_sequence_file("user/dataset")


def test_which_reader_a_file_is_for_in_other_encodings(tmp_path):
    """A byte order mark and UTF-16 do not hide the columns of a dataset; Parquet is a dataset."""
    everything = ",".join(COLUMNS) + "\n"
    for name, encoding in (("bom.csv", "utf-8-sig"), ("wide.csv", "utf-16"), ("latin.csv", "latin-1")):
        assert not is_sequence_file(write(tmp_path / name, everything.encode(encoding)))
        assert is_sequence_file(write(tmp_path / name, "id,sequence\n".encode(encoding)))
    assert not is_sequence_file(write(tmp_path / "a.parquet", b"PAR1"))


BOOK = b"PK\x03\x04\x14" + bytes(25) + b"docProps/app.xml"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,sequence\nP1,ACGT\n".encode("utf-16-le"), "seems to be text in UTF-16. Save it as UTF-8"),
        ("a.fasta", ">P1\nACGT\n".encode("utf-16"), "is text in UTF-16. Save it as UTF-8.$"),
        ("a.csv", "id,sequence\nP1,ACGT\n".encode("utf-16"), r"or give its encoding by --encoding utf-16 \(in"),
        ("a.csv", b"id,sequence\nP1,AC\0GT\n", "line 2 holds a NUL character"),
        ("a.xlsx", BOOK, "is a workbook. Save its sheet as CSV"),
        ("a.ab1", "ABIF\x00etdir", r"is a trace \(AB1\), not a table, FASTA or FASTQ"),
        ("a.gb", "LOCUS       AB1 658 bp\n", "is a file of GenBank, not a table, FASTA or FASTQ"),
        ("a.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(99), "is not a FASTA or FASTQ"),
        ("a.csv", b"P1," + b"ACGT" * 20 + b"\n", r"'ACGTACGT[ACGT]*\.\.\.'.* Its first line seems to be a record"),
        ("a.csv", b"Moths of 2024,,\nid,sequence,x\n", "has 2 columns without a name. .* is it a title"),
        ("a.csv", b"id,ID,sequence\nP1,P2,ACGT\n", "has several columns of ids: ID, id"),
        ("a.csv", ",".join(f"c{i}" for i in range(99)) + "\n", "'c49' and 49 more. Choose one"),
    ],
)
def test_what_people_save_is_told_in_words(name, content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / name, content))


def test_one_column_is_not_both(tmp_path):
    path = write(tmp_path / "a.csv", "id,sequence\nP1,ACGT\n")
    for column in ("id", "sequence"):
        with pytest.raises(ValueError, match=f"the column '{column}' cannot hold both the ids and the sequences"):
            read(path, id_column=column, sequence_column=column)


def test_proteins_are_refused_where_any_letter_is_read(tmp_path):
    """They were reads with too few letters."""
    path = write(tmp_path / "a.csv", "id,sequence\nP1,MFADRWLFSTNHKDIGTLYLLFGAWAGVLG\n")
    with pytest.raises(ValueError, match="seems to hold proteins: 'P1' is .* Give their nucleotides"):
        read_sequences(path, clean="any")


def test_inosine_is_no_amino_acid(tmp_path):
    """Primers hold it: the primer jgHCO2198 in three of 26 letters."""
    path = write(tmp_path / "a.csv", "id,sequence\nP1,TAIACYTCIGGRTGICCRAARAAYCA\n")
    assert read_sequences(path, clean="any")["dna_barcode"].to_pylist() == ["TANACYTCNGGRTGNCCRAARAAYCA"]


@pytest.mark.parametrize("name", ["muscle_id", "locus tag", "Clustal", "RDX_id", "ID   "])
def test_columns_with_names_of_other_formats(name, tmp_path):
    path = write(tmp_path / "a.csv", f"{name},sequence,seqid\n1,ACGT,P1\n")
    assert read_sequences(path, id_column="seqid")["processid"].to_pylist() == ["P1"]


def test_numbers_of_lines_are_not_letters(tmp_path):
    """GenBank writes the place of the first letter before each line: left out where anything is read, else refused."""
    path = write(tmp_path / "a.fasta", ">P1\n   1 acgtac gtacgt\n  13 ttt-t\n>P2\nACXT\n")
    table = read_sequences(path, clean="any")
    assert table["dna_barcode"].to_pylist() == ["ACGTACGTACGTTTTT", "ACNT"]
    with pytest.raises(ValueError, match="line 2 holds '1'"):
        read_sequences(path)


def test_a_table_of_barcodebert(reference, tmp_path):
    """The published supervised sets: `nucleotides`, `species_name`, `bin_uri`."""
    path = tmp_path / "supervised_train.csv"
    path.write_text(reference.text("barcodebert/tiny_data/supervised_train.csv"))
    found = read_sequences(path)
    assert found.column_names == ["processid", "dna_barcode", "order", "family", "genus", "species", "dna_bin"]
    assert len(found) == len(path.read_text().splitlines()) - 1 > 10


BOLD = (
    ">P1-20|Apis mellifera|COI-5P|AB1\nACGTAC\n>P1-20|Apis mellifera|28S|AB2\nGGGGGG\n"
    ">P2-20|Apis sp. 2ABC|COI-5P\nACGTTT\n>P3-20|Apis cerana|COI-5P|\n\n"
)
BCDM = (
    "processid\tmarker_code\tspecies\tbin_uri\tnuc\nP1-20\tCOI-5P\tApis mellifera\tBOLD:A\tAC--GT\n"
    "P1-20\t28S\tApis mellifera\tNone\tGGGG\nP2-20\tNone\tNone\tNone\tNone\nP3-20\tCOI-5P\tNone\tNone\tacgu\n"
)


def test_a_fasta_of_bold(tmp_path):
    """The id ends at the first "|", the species is read, one marker is kept, and what is left out is told."""
    told = []
    found = read_sequences(write(tmp_path / "bold.fasta", BOLD), tell=told.append)
    assert found.to_pydict() == {
        "processid": ["P1-20", "P2-20"],
        "dna_barcode": ["ACGTAC", "ACGTTT"],
        "species": ["Apis mellifera", "Apis sp. 2ABC"],
    }
    assert told == ["bold.fasta: left out 1 record of the marker 28S, 1 record without a sequence."]
    other = read_sequences(tmp_path / "bold.fasta", marker="28S", tell=told.append)
    assert other["dna_barcode"].to_pylist() == ["GGGGGG"]
    everything = read_sequences(tmp_path / "bold.fasta", marker=None, duplicates="keep", empty="keep")
    assert len(everything) == 4


def test_a_table_of_bold_with_markers(tmp_path):
    told = []
    found = read_sequences(write(tmp_path / "bcdm.tsv", BCDM), tell=told.append)
    assert found.to_pydict() == {
        "processid": ["P1-20", "P3-20"],
        "dna_barcode": ["ACGT", "ACGT"],
        "species": ["Apis mellifera", None],
        "dna_bin": ["BOLD:A", None],
    }
    assert told == ["bcdm.tsv: left out 1 record of the marker 28S, 1 record without a sequence."]


@pytest.mark.parametrize("marker", ["NA", "NaN", "nan", "N/A", "None", "null", "-", "n", "?", ""])
def test_markers_of_missing_values_are_not_dna(tmp_path, marker):
    """In a table and in a FASTA; all records without a sequence are named together."""
    table = f"id,seq\nP1,ACGT\nP2,{marker}\nP3,{marker}\n"
    for name, text in (("a.csv", table), ("a.fasta", f">P1\nACGT\n>P2\n{marker}\n>P3\n")):
        path = write(tmp_path / name, text)
        with pytest.raises(ValueError, match="has 2 records without a sequence: 'P2', 'P3'"):
            read_sequences(path)
        assert read(path, empty="keep") == {"P1": "ACGT", "P2": "", "P3": ""}


def test_all_spellings_of_a_barcode_embed_alike(tmp_path):
    """Upper, lower and mixed case, U, gaps at the ends and inside, white space: one vector."""
    plain = "ACGTTGCAACGTAGCT"
    spellings = [plain, plain.lower(), plain[:8] + plain[8:].lower(), plain.replace("T", "U"), f"--{plain}--"]
    spellings += [plain[:5] + "-" + plain[5:], plain[:5] + "\t" + plain[5:], plain[:5] + " " + plain[5:]]
    rows = "".join(f"P{i},{barcode}\n" for i, barcode in enumerate(spellings))
    records = "".join(f">P{i}\n{barcode}\n" for i, barcode in enumerate(spellings))
    for name, text in (("a.csv", "id,seq\n" + rows), ("a.fasta", records)):
        found = read_sequences(write(tmp_path / name, text))
        assert set(found["dna_barcode"].to_pylist()) == {plain}
        result = embed(*kmer_encoder(3), found)
        assert result.valid.all() and (result.embeddings == result.embeddings[0]).all()

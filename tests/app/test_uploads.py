"""Text and files of visitors: every kind is read, and everything beyond a limit is refused in words."""

import gzip
import tempfile
from pathlib import Path

import pytest
from openpyxl import Workbook

from bioscan_hf.app import uploads
from bioscan_hf.app.uploads import are_photos, photos_of, read_text, read_upload

READ = "ACGT" * 30


def pairs(table):
    return list(zip(table["processid"].to_pylist(), table["dna_barcode"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        f">a\n{READ}\n>b\n{READ[:60]}\n{READ[60:]}",
        f"@a\n{READ}\n+\n{'I' * 120}\n@b\n{READ}\n+\n{'I' * 120}\n",
        f"id,sequence\na,{READ}\nb,{READ.lower()}",
        f"id\tsequence\na\t{READ}\nb\t{READ}\n",
    ],
)
def test_every_kind_of_text_is_read(text, tmp_path):
    assert pairs(read_text(text)) == [("a", READ), ("b", READ)]
    (tmp_path / "reads.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert pairs(read_upload(tmp_path / "reads.txt.gz")) == [("a", READ), ("b", READ)]


def test_lines_are_sequences():
    assert pairs(read_text(f"\n{READ}\n\n{READ}\n")) == [("sequence1", READ), ("sequence2", READ)]


def test_a_sheet_is_read(tmp_path):
    book = Workbook()
    for row in (["ID", "Sequence", "note"], ["a", READ, "=1+1"], [None, None, None], [7, READ, "x"]):
        book.active.append(row)
    book.save(tmp_path / "reads.xlsx")
    assert pairs(read_upload(tmp_path / "reads.xlsx")) == [("a", READ), ("7", READ)]


def test_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_READS", 3)
    monkeypatch.setattr(uploads, "MOST_LETTERS", 200)
    monkeypatch.setattr(uploads, "MOST_TOGETHER", 300)
    monkeypatch.setattr(uploads, "MOST_TEXT", 2000)
    monkeypatch.setattr(uploads, "MOST_BYTES", 3000)
    monkeypatch.setattr(uploads, "MOST_UNPACKED", 9000)
    monkeypatch.setattr(uploads, "MOST_PHOTOS", 1)

    def refused(match, function, *values):
        with pytest.raises(ValueError, match=match):
            function(*values)

    refused("The text has 4 sequences; at most 3", read_text, "\n".join([READ] * 4))
    refused("The text has 360 letters; at most 300", read_text, "\n".join([READ] * 3))
    refused("a sequence of 201 letters; at most 200", read_text, ">a\n" + "A" * 201)
    refused("The text has 2,001 letters. Paste at most", read_text, "A" * 2001)
    refused("There is nothing to name", read_text, " \n ")
    large, packed, book = (tmp_path / name for name in ("large.fasta", "small.fasta.gz", "sheet.xlsx"))
    large.write_bytes(b">a\n" + b"A" * 3000)
    refused("large.fasta has 3,003 bytes; at most", read_upload, large)
    packed.write_bytes(gzip.compress(b">a\n" + b"A" * 9000))
    refused("small.fasta.gz holds more than", read_upload, packed)
    packed.write_bytes(gzip.compress(f">a\n{READ}".encode())[:-9])
    refused("small.fasta.gz cannot be unpacked", read_upload, packed)
    Workbook().save(book)
    monkeypatch.setattr(uploads, "MOST_BYTES", 1 << 20)
    refused("sheet.xlsx holds more than", read_upload, book)
    refused("There are 2 photos; at most 1", photos_of, [large, large])


def test_files_of_other_kinds_are_refused_without_a_path(tmp_path):
    for name, content in (("a.fasta", bytes(range(256))), ("b.csv", b"\xff\xfe\x00"), ("c.xlsx", b"PK\x03\x04xx")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as refused:
            read_upload(tmp_path / name)
        assert str(tmp_path) not in str(refused.value) and tempfile.gettempdir() not in str(refused.value)


def test_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read_text(f">a\n{READ}")
    with pytest.raises(ValueError, match="has no column of sequences"):
        read_text("id,name\na,b")
    assert not list(tmp_path.iterdir())


def test_a_column_that_is_missing_is_named_without_options():
    """A visitor has no --id-column: the words tell how to name the column."""
    for text, column, names in (
        ("sample,sequence\na,ACGT", "id", "'sample', 'sequence'"),
        ("id,when\na,b", "sequence", "'id'"),
    ):
        with pytest.raises(ValueError, match=f"Its columns are {names}.*Name one of them '{column}'.$") as refused:
            read_text(text)
        assert "--" not in str(refused.value)


def test_photos_are_told_by_their_names():
    assert are_photos(["a.JPG", "b.png"]) and not are_photos(["a.jpg", "b.fasta"]) and not are_photos([])
    assert not are_photos([Path("photo.jpg.exe")])

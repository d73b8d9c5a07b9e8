"""The one reader of tables: delimiters, quotes, encodings, malformed lines, and rows counted twice."""

import csv
import gzip
import io
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bioscan_hf.files import read_json
from bioscan_hf.release import tables
from bioscan_hf.release.catalogue import METADATA_NAME
from bioscan_hf.release.problems import ReleaseError
from bioscan_hf.release.records import Dialect, read_blocks
from bioscan_hf.release.rows import read_rows, row_columns
from bioscan_hf.release.tables import csv_columns, read_strings, read_table
from bioscan_hf.release.write import write_table

HEADER = "processid,notes,genus,species,dna_barcode"


def rows_of(path, report=None, **options):
    """Rows as tuples, and the problems as texts."""
    problems = []
    found = read_strings(path, ("processid",), report=report or problems.append, **options)
    return [tuple(row.values()) for _, table in found for row in table.to_pylist()], list(map(str, problems))


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


# Quotes


def test_a_stray_quote_in_a_tsv_is_a_letter(tmp_path):
    lines = ["P1\tpan\tAC", 'P2\t"Malaise trap\tCG', 'P3\thand "net"\tGT', 'P4\t"12 inch pan\tTA']
    path = write(tmp_path / "bold.tsv", "\n".join(["processid\tnotes\tdna_barcode", *lines]) + "\n")
    rows, problems = rows_of(path)
    assert rows == [tuple(line.split("\t")) for line in lines] and not problems


@pytest.mark.parametrize("closed_by", ['"12 inch pan', 'light"', "light"])
def test_a_stray_quote_in_a_csv_names_its_line(tmp_path, closed_by):
    """The quote of P2 would swallow P3 and P4, up to a quote that opens a cell, one that ends a cell, or the end."""
    notes = ["pan", '"Malaise trap', "hand net", "sweep", closed_by, "end"]
    lines = [f"P{i},{note},Apis,Apis mellifera,ACGT{'A' * i}" for i, note in enumerate(notes, start=1)]
    path = write(tmp_path / "own.csv", "\n".join([HEADER, *lines]) + "\n")
    with pytest.raises(ReleaseError, match="own.csv: line 3 has a quote that is not closed: it swallows the next"):
        rows_of(path, report=tables.stop)
    rows, problems = rows_of(path)
    lost = {2, 5} if closed_by.startswith('"') else {2}
    assert [row[0] for row in rows] == [f"P{i}" for i in range(1, 7) if i not in lost]
    assert all(row[4] == f"ACGT{'A' * int(row[0][1])}" for row in rows) and len(problems) == len(lost)


def test_one_stray_quote_among_a_thousand_rows(tmp_path):
    lines = [f"P{i},{chr(34) if i == 500 else ''}note,Apis,Apis mellifera,ACGT" for i in range(1, 1001)]
    path = write(tmp_path / "thousand.csv", "\n".join([HEADER, *lines]) + "\n")
    rows, [problem] = rows_of(path)
    assert len(rows) == 999 and "line 501 has a quote that is not closed: it swallows the next 500 lines" in problem


def test_a_quote_inside_an_unquoted_cell_is_a_letter(tmp_path):
    path = write(tmp_path / "own.csv", f'{HEADER}\nP1,12" net,Apis,Apis mellifera,AC\nP2,a "b" c,Apis,x,CG\n')
    assert [row[1] for row in rows_of(path)[0]] == ['12" net', 'a "b" c']


@pytest.mark.parametrize("rows", [100, 60_000])
def test_quoted_line_breaks_are_read_at_any_size(tmp_path, rows):
    """60,000 rows are 6 MB, more than a block."""
    lines = [f'P{i},"first, line\nsecond ""line""\r\n{"x" * 60}",Apis,Apis mellifera,ACGT' for i in range(rows)]
    found, problems = rows_of(write(tmp_path / "own.csv", "\n".join([HEADER, *lines]) + "\n"))
    assert not problems and [row[0] for row in found] == [f"P{i}" for i in range(rows)]
    assert {row[1] for row in found} == {f'first, line\nsecond "line"\r\n{"x" * 60}'}


CELLS = st.text(st.sampled_from('ab,;"\n\t é'), max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=12),
    st.integers(1, 40),
    st.sampled_from(",;"),
    st.sampled_from(["\n", "\r\n"]),
)
@example([("", "", "\n;;"), ("", "\n", ";a")], 1, ";", "\n")
def test_well_formed_records_are_those_of_the_csv_module(rows, block, delimiter, end):
    """Whatever csv writes is read back, at any size of the blocks, or a quote is reported (three whole lines)."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    dialect = Dialect(delimiter, 3)
    blocks = [one.checked(dialect) for one in read_blocks(io.BytesIO(text.getvalue().encode()), dialect, 2, block)]
    expected = [list(row) for row in rows]
    if any(block.bad for block in blocks):
        assert "quote" in next(bad.what for block in blocks for bad in block.bad)  # later ones may follow from it
        return
    read = io.StringIO(b"".join(block.data for block in blocks).decode(), newline="")
    assert list(csv.reader(read, delimiter=delimiter)) == expected
    assert sum(len(block.lines) for block in blocks) == len(rows)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('ab,"\n\r\0'), max_size=60), st.integers(1, 40))
def test_any_text_is_counted_as_it_is_parsed(text, block):
    """Rows and lines that are counted: every line without quotes that has two cells is a row, at its own line."""
    header = tables.Header(["a", "b"], Dialect(",", 2), 1)
    lines = []
    for found in read_blocks(io.BytesIO(text.encode()), header.dialect, 1, block):
        checked = found.checked(header.dialect)
        table, bad = tables._parse(tables.Path("x"), found, header, ["a", "b"])
        assert bad == checked.bad and (0 if table is None else len(table)) == len(checked.lines)
        lines += checked.lines.tolist()
    assert lines == sorted(set(lines))
    if '"' not in text and "\r" not in text and "\0" not in text:
        assert lines == [i for i, line in enumerate(text.split("\n"), start=1) if line.count(",") == 1]


# Malformed lines


def test_malformed_lines_are_named_by_their_line_each(tmp_path):
    path = write(tmp_path / "own.csv", f"{HEADER}\nP1,a,b,c,AC\n\ncut,off\nP2,a,b,c,CG\ncut,off\nP3,a,b,c,d,GT,e\n")
    rows, problems = rows_of(path)
    assert [row[0] for row in rows] == ["P1", "P2"]
    assert [problem.split(" (")[0].split(": '")[0] for problem in problems] == [
        "own.csv: line 4 has 2 cells instead of 5",
        "own.csv: line 6 has 2 cells instead of 5",
        "own.csv: line 7 has 7 cells instead of 5",
    ]


def test_many_malformed_lines_are_all_named(tmp_path):
    path = write(tmp_path / "own.csv", HEADER + "\nP1,a,b,c,AC\ncut,off" * 4000 + "\n")
    rows, problems = rows_of(path)
    assert len(rows) == 4000 and len(set(problems)) == 4000


@pytest.mark.parametrize("end", ["", '"P0",a,b,c,AC\n'])
def test_the_lines_around_a_stray_quote_are_not_read_one_by_one(tmp_path, monkeypatch, end):
    """A stray quote before 100,000 short lines: few records are matched by themselves, wherever a quote closes it."""
    seen, original = [], Dialect.record
    monkeypatch.setattr(Dialect, "record", lambda *given: seen.append(0) or original(*given))
    path = write(tmp_path / "own.csv", f'{HEADER}\nP1,"a,b,c,AC\n' + "P,a,b,c,A\n" * 100_000 + end)
    rows, problems = rows_of(path)
    assert len(rows) == 100_000 + bool(end) and "line 2 has a quote that is not closed" in problems[0]
    assert len(problems) == 1 and len(seen) < 10_000


def test_quotes_behind_a_long_record(tmp_path):
    """The record is longer than the windows in which quotes are looked at one by one."""
    notes = ['"a"', "a" * 70_000, 'b"c', 'd"e', "f"]
    lines = [f"P{i},{note},Apis,Apis mellifera,ACGT" for i, note in enumerate(notes)]
    rows, problems = rows_of(write(tmp_path / "t.csv", "\n".join([HEADER, *lines]) + "\n"))
    assert [row[1] for row in rows] == ["a", *notes[1:]] and not problems


def test_a_malformed_line_in_another_encoding_is_left_out(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(f"{HEADER}\nP1,a,b,c,AC\n".encode() + b"Qu\xe9bec\nP2,a,b,c,CG\n")
    rows, [problem] = rows_of(path)
    assert [row[0] for row in rows] == ["P1", "P2"] and "line 3 has 1 cell instead of 5" in problem


@pytest.mark.parametrize(("letter", "what"), [("\0", "holds a NUL character"), ("\r", "holds a carriage return")])
def test_control_letters_are_named(tmp_path, letter, what):
    path = write(tmp_path / "own.csv", f"{HEADER}\nP1,a,b,c,AC\nP2,a{letter}a,b,c,CG\n")
    rows, [problem] = rows_of(path)
    assert [row[0] for row in rows] == ["P1"] and f"line 3 {what}" in problem


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path):
    with gzip.open(tmp_path / "own.csv.gz", "wb") as file:
        file.write(f"{HEADER}\nP1,a,b,c,".encode())
        for _ in range(30):
            file.write(b"A" * (1 << 20))
    with pytest.raises(ReleaseError, match="line 2 is longer than 1,048,576 bytes"):
        rows_of(tmp_path / "own.csv.gz", report=tables.stop)


def test_rows_that_the_parser_loses_stop_the_run(tmp_path, monkeypatch):
    path = write(tmp_path / "own.csv", f"{HEADER}\nP1,a,b,c,AC\nP2,a,b,c,AC\n")
    original = tables.pacsv.read_csv
    monkeypatch.setattr(tables.pacsv, "read_csv", lambda *given: original(*given).slice(1))
    with pytest.raises(ReleaseError, match="lines 2 to 3 hold 2 rows, but 1 were read"):
        rows_of(path)


# Formats


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.csv", "\t"), ("a.csv", "|")]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimiters_line_ends_and_byte_order_marks(tmp_path, name, delimiter, end, mark):
    lines = [["processid", "a b", "é"], ["P1", "", "ö"], ["P2", "x", ""]]
    text = mark + end.join(map(delimiter.join, lines)) + end
    path = write(tmp_path / name, text)
    assert csv_columns(path) == lines[0]
    assert rows_of(path)[0] == [("P1", None, "ö"), ("P2", "x", None)]
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert rows_of(packed)[0] == rows_of(path)[0]


def test_a_latin1_file_is_named_with_line_and_column(tmp_path):
    path = write(tmp_path / "own.csv", f"{HEADER}\nP1,a,b,c,AC\nP2,Québec,b,c,CG\n", "latin-1")
    message = r"own.csv, line 3, column notes: 'Québec' is not UTF-8.*--encoding latin-1"
    with pytest.raises(ReleaseError, match=message):
        rows_of(path)
    assert rows_of(path, encoding="latin-1")[0][1][1] == "Québec"
    with pytest.raises(ReleaseError, match="Unknown encoding 'latin'|encoding='utf-16'"):
        rows_of(write(tmp_path / "wide.csv", f"{HEADER}\nP1,a,b,c,AC\n", "utf-16"))
    assert rows_of(tmp_path / "wide.csv", encoding="utf-16")[0] == [("P1", "a", "b", "c", "AC")]
    with pytest.raises(ReleaseError, match="Unknown encoding 'klingon'"):
        rows_of(path, encoding="klingon")


def test_a_zip_packed_by_a_mac(tmp_path):
    with ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("__MACOSX/._m.csv", b"\0\5\x16\7")
        archive.writestr("._other.csv", b"\0\5\x16\7")
        archive.writestr("m.csv", "processid,a\nP1,x\n")
    assert rows_of(tmp_path / "m.zip")[0] == [("P1", "x")]


def test_a_zip_of_several_tables_is_refused(tmp_path):
    """Unless one is the published metadata, or of a kind that is preferred; none is left out in silence."""
    with ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a.csv", "b.csv", "c.tsv"):
            archive.writestr(name, "processid,a\nP1,x\n")
    with pytest.raises(ReleaseError, match="two.zip holds several tables, such as a.csv and b.csv. Unpack it"):
        csv_columns(tmp_path / "two.zip")
    with ZipFile(tmp_path / "two.zip", "a") as archive:
        archive.writestr(f"{METADATA_NAME}.csv", "processid,a\nP2,y\n")
    assert rows_of(tmp_path / "two.zip")[0] == [("P2", "y")]


@pytest.mark.parametrize("name", ["own.csv", "own.xlsx", "own.parquet"])
def test_other_formats_are_named(tmp_path, name):
    book, parquet = tmp_path / "book", tmp_path / "parquet"
    with ZipFile(book, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    pq.write_table(pa.table({"processid": ["P1"]}), parquet)
    for file, message in ((book, "is a workbook. Save its sheet as CSV"), (parquet, "is Parquet. Save it as CSV")):
        with pytest.raises(ReleaseError, match=f"{name} {message}"):
            csv_columns(file.rename(tmp_path / name))
    (tmp_path / name).write_text(">P1|Apis mellifera|COI-5P\nACGT\n")
    with pytest.raises(ReleaseError, match=f"{name} is a FASTA. A table is needed"):
        csv_columns(tmp_path / name)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("processid,notes,notes", "has 2 columns 'notes'. Rename or remove one"),
        ("processid,notes, notes", "has 2 columns 'notes'"),
        ("processid,image", "has a column 'image', a name that loaded data use for photos. Rename it."),
        ("processid,species_index", "has a column 'species_index', .* label ids. Rename it."),
    ],
)
def test_columns_that_cannot_be_loaded_are_named(tmp_path, header, message):
    path = write(tmp_path / "own.csv", header + "\n" + ",".join("x" * (header.count(",") + 1)) + "\n")
    for read in (row_columns, lambda path: next(read_rows(path))):
        with pytest.raises(ReleaseError, match=message):
            read(path)


def test_a_header_that_csv_refuses(tmp_path):
    """A carriage return inside, and a name of over 128 KiB."""
    for header in ("processid,a\rb,dna_barcode\n", f"processid,{'a' * 140_000},dna_barcode\n"):
        with pytest.raises(ReleaseError, match="t.csv is not a table: its first line does not name the columns"):
            csv_columns(write(tmp_path / "t.csv", f"{header}P1,a,ACGT\n"))


def test_a_bad_record_with_a_cell_that_csv_refuses(tmp_path):
    """A quoted cell of over 128 KiB in a record with a cell too few, and before bytes that are not UTF-8."""
    long = f'"{"a" * 140_000}"'
    rows, problems = rows_of(
        write(tmp_path / "t.csv", f"{HEADER}\nP1,{long},Apis,ACGT\nP2,,Apis,Apis mellifera,ACGT\n")
    )
    assert [row[0] for row in rows] == ["P2"] and "line 2 has 4 cells instead of 5" in problems[0]
    (tmp_path / "u.csv").write_bytes(f"{HEADER}\nP1,{long},Apis,".encode() + b"Apis \xe9,ACGT\n")
    with pytest.raises(ReleaseError, match="u.csv, line 2, .* is not UTF-8"):
        rows_of(tmp_path / "u.csv")


def test_half_of_a_character_in_json(tmp_path):
    """JSON can write what UTF-8 cannot: in a cell, in a key, and in a file of this package."""
    good = '[{"processid": "P1", "dna_barcode": "ACGT", "notes": "\\ud83e\\udd8b"}'
    assert rows_of(write(tmp_path / "t.json", f"{good}]"))[0] == [("P1", "ACGT", "\U0001f98b")]
    with pytest.raises(ReleaseError, match="t.json, row 2: notes is .*half of a character"):
        rows_of(write(tmp_path / "t.json", good + ', {"processid": "P2", "notes": "a\\ud83e"}]'))
    with pytest.raises(ReleaseError, match="t.json has a key .*half of a character"):
        csv_columns(write(tmp_path / "t.json", '[{"processid": "P1", "a\\ud83e": "x"}]'))
    with pytest.raises(ValueError, match="l.json' cannot be read as JSON"):
        read_json(write(tmp_path / "l.json", '{"species": ["a\\ud83e"]}'))


def test_zips_that_zipfile_refuses(tmp_path):
    """Another version, encryption, a name that is not UTF-8, and a method that does not exist."""
    with ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("t\xe9.csv", f"{HEADER}\nP1,,Apis,Apis mellifera,ACGT\n")
    data = (tmp_path / "t.zip").read_bytes()
    at = data.find(b"PK\1\2")
    assert rows_of(tmp_path / "t.zip")[0]
    for place, value in ((at + 6, 200), (at + 8, 1), (at + 47, 0xFF), (at + 10, 77)):
        changed = bytearray(data)
        changed[place] = value
        (tmp_path / "t.zip").write_bytes(changed)
        with pytest.raises(ReleaseError, match="t.zip .*(readable table|to its end)"):
            rows_of(tmp_path / "t.zip")


def test_all_missing_columns_are_named_at_once(tmp_path):
    with pytest.raises(ReleaseError, match="has no column 'genus', 'species' .its columns: 'processid', 'a'"):
        read_table(write(tmp_path / "own.csv", "processid,a\nP1,x\n"), ("processid", "genus", "species"))


# Writing


def test_the_ending_tells_the_format_that_is_written(tmp_path):
    table = pa.table({"processid": ["P1", "P2"], "notes": ['a, "b"\nc', None]})
    for name in ("t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz"):
        write_table(table, tmp_path / name)
        assert read_table(tmp_path / name, ("processid",)).equals(table)
    cells = ['a, "b"\nc', "a\rb", ' "', "", None, "é, ", "NA", "é", "a'b", "\t"]
    write_table(mixed := pa.table({"processid": [f"P{i}" for i in range(10)], "notes": cells}), tmp_path / "t.csv")
    for i in range(10):  # each row by itself is written in the same way, whether it needs quotes or not
        write_table(mixed.slice(i, 1), tmp_path / "one.csv")
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerow([f"P{i}", cells[i]])
        assert (tmp_path / "one.csv").read_bytes() == b"processid,notes\n" + text.getvalue()[:-2].encode() + b"\n"
    assert read_table(tmp_path / "t.csv", ("processid",))["notes"].to_pylist() == [cell or None for cell in cells]
    plain = pa.table({"processid": ["P1", "P2"], "notes": ['a "b"', None]})
    for name in ("t.tsv", "t.tsv.gz"):
        write_table(plain, tmp_path / name)
        assert read_table(tmp_path / name, ("processid",)).equals(plain)
    with pytest.raises(ValueError, match="Row 1, column 'notes' has a tab or line break"):
        write_table(table, tmp_path / "u.tsv")
    for name in ("t.xlsx", "t", "t.parquet", "t.json"):
        with pytest.raises(ValueError, match="a table ends in .csv, .tsv, .jsonl, also with .gz"):
            write_table(table, tmp_path / name)
    assert not list(tmp_path.glob("u*")) and not list(tmp_path.glob("*.part"))

"""200 mutated files: every reader reads them, or refuses them by one line. `fuzz_readers.py` reads any number."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_readers
from fuzz_inputs import READERS

#: Readers that take under 10 ms for a file, and need no large libraries.
LIGHT = [name for name, reader in READERS.items() if reader.weight > 1 and name not in ("index", "hdf5", "bioscan1m")]
FILES = -(-200 // len(LIGHT))


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
@pytest.mark.parametrize("name", LIGHT)
def test_mutated_files(name, tmp_path):
    """Within limits of time and memory, and without a trace outside of the output."""
    bench = fuzz_readers.fuzz(name, range(FILES), 7, tmp_path / "x/y")
    assert bench.findings == {}
    assert sum(bench.outcomes.values()) == FILES


def test_a_reader_that_fails_is_found(monkeypatch, tmp_path):
    """Each kind of finding: an undocumented error, several lines, a file outside, a changed input, too much time."""
    calls = []

    def read(folder, output):
        calls.append(1)
        kind = len(calls) - 3  # the first two calls read the valid input
        if kind == 0:
            raise KeyError("x")
        if kind == 1:
            raise ValueError("two\nlines")
        if kind == 2:
            (output.parent / "beside").write_text("x")
        if kind == 3:
            (output.parent / "beside").unlink()
            (folder / "more").write_text("x")
        if kind == 4:
            (folder / "more").unlink()
            while True:
                pass

    monkeypatch.setattr(fuzz_readers, "SECONDS", 0.2)
    monkeypatch.setitem(READERS, "broken", READERS["csv"]._replace(read=read))
    found = fuzz_readers.fuzz("broken", range(6), 0, tmp_path / "x/y").findings
    assert list(found) == [0, 1, 2, 3, 4]
    for text, what in zip(
        found.values(), ("KeyError", "not one line", "beside", "changed its input", "0.2 s"), strict=True
    ):
        assert what in text

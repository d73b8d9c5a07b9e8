"""Atomic writing, locks, deletions, JSON and hashes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bioscan_hf.files import (
    LARGEST_JSON,
    TEMPORARY,
    delete_inside,
    delete_temporaries,
    file_hash,
    is_missing_path,
    locked,
    read_json,
    replacing,
    temporary_name,
    write_json,
    write_text,
    writing,
)


def start(code, *arguments):
    """A Python process that runs `code`; its output is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


KILLED = """
import sys, time
from bioscan_hf.files import writing
with writing(sys.argv[1]) as file:
    file.write("new")
    file.flush()
    print("half-way", flush=True)
    time.sleep(60)
"""


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    process = start(KILLED, path)
    assert process.stdout.readline() == "half-way\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_text() == "old"
    left = [other.name for other in tmp_path.iterdir() if other != path]
    assert len(left) == 1 and left[0].startswith(".file.txt.") and left[0].endswith(TEMPORARY)
    delete_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path):
    """The file has the old or the new content at any time, also with two writers."""
    path = tmp_path / "file.txt"
    texts = {"a" * 100_000, "b" * 100_000}
    write_text(path, min(texts))
    stop = threading.Event()

    def write(text):
        while not stop.is_set():
            write_text(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    seen, reads = {path.read_text()}, 0
    while reads < 300 or (len(seen) < 2 and reads < 100_000):  # on a busy machine one thread may write for long
        seen.add(path.read_text())
        reads += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert seen == texts and list(tmp_path.iterdir()) == [path]


def test_two_writers_have_their_own_temporary_file(tmp_path):
    """The last one that ends wins, and nothing is mixed."""
    path = tmp_path / "folder" / "file.txt"
    with writing(path) as first, writing(path) as second:
        first.write("first")
        second.write("second")
        assert len(list(path.parent.iterdir())) == 2 and not path.exists()
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]
    assert temporary_name(path) != temporary_name(path) and temporary_name(path).parent == path.parent


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_keeps_the_old_file_and_removes_the_temporary_one(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as part:
        part.write_bytes(b"new")
        raise error
    with pytest.raises(error), writing(path, "wb") as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_raises(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_text_is_utf8_with_unix_line_ends(tmp_path):
    write_text(tmp_path / "a", "\u00e9\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\n"
    with writing(tmp_path / "b", newline="", encoding="latin-1") as file:
        file.write("\u00e9\r\n")
    assert (tmp_path / "b").read_bytes() == b"\xe9\r\n"
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"\xc3\xa9\n").hexdigest()


HOLDER = """
import sys
from bioscan_hf.files import locked
with locked(sys.argv[1], "build"):
    print("locked", flush=True)
    sys.stdin.read()
"""

WAITER = """
import sys
from bioscan_hf.files import locked
print("begins", flush=True)
with locked(sys.argv[1], "build", wait=True):
    print("locked", flush=True)
"""


def test_a_lock_is_held_by_one_process(tmp_path):
    holder = start(HOLDER, tmp_path / "folder")
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(
        RuntimeError, match="Another build is writing to .*folder.* Wait until it has ended, or choose"
    ):
        with locked(tmp_path / "folder", "build"):
            pass
    with locked(tmp_path / "folder", "download", name=".other.lock"):
        pass
    waiter = start(WAITER, tmp_path / "folder")
    assert waiter.stdout.readline() == "begins\n"
    time.sleep(0.3)
    assert waiter.poll() is None
    holder.communicate("")  # ends it
    assert waiter.communicate(timeout=30)[0] == "locked\n"
    with locked(tmp_path / "folder", "build"):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    holder = start(HOLDER, tmp_path)
    assert holder.stdout.readline() == "locked\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path, "build"):
        pass


def test_delete_inside(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "precious"
    write_text(folder / "sub/a", "")
    write_text(folder / "b", "")
    write_text(outside, "x")
    (folder / "link").symlink_to(tmp_path)
    (folder / "file-link").symlink_to(outside)
    for name in ("sub/a", "b", "b", "missing/c", "file-link"):  # of a link, the link is deleted
        delete_inside(folder, name)
    assert sorted(path.name for path in folder.iterdir()) == ["link", "sub"] and not list((folder / "sub").iterdir())
    for name in ("../precious", "sub/../../precious", str(outside), "link/precious", "..", ".", "", "sub/.."):
        with pytest.raises(ValueError, match="is not a file inside .*folder.*, so it is not deleted"):
            delete_inside(folder, name)
    assert outside.read_text() == "x"


def test_delete_temporaries(tmp_path):
    """Also of sub-folders; only those that this package made: a download may be called a.zip.part."""
    ours = [temporary_name(tmp_path / "a.txt"), temporary_name(tmp_path / "sub/b.txt")]
    others = [f"a.zip{TEMPORARY}", f".hidden{TEMPORARY}", f"x.12-0011aabb{TEMPORARY}", "a.txt"]
    others.append(f".folder.1-0011aabb{TEMPORARY}/e")  # a folder with such a name is not a temporary file
    for path in (*ours, *(tmp_path / name for name in others)):
        write_text(path, "")
    delete_temporaries(tmp_path)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(others)


def test_json_round_trip(tmp_path):
    content = {"name": "\u00e9", "list": [1, None], "n": 2}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json", {"name": str, "list": list, "n": int}) == content
    assert (tmp_path / "a.json").read_text(encoding="utf-8").startswith('{\n  "name": "\u00e9"')
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("{", None, "cannot be read as JSON .*Is the file complete"),
        ("[" * 100_000, None, "cannot be read as JSON .*(recursion|Stack overflow)"),
        ("[1]", None, "holds a list instead of an object"),
        ("{}", {"n": int}, "has no field 'n'. Was it written by this package"),
        ('{"n": "1"}', {"n": int}, "'n' in .* is '1' .str.; its type must be int"),
        ('{"n": true}', {"n": int}, "'n' in .* is 'True' .bool.; its type must be int"),
    ],
)
def test_unusable_json_is_named(tmp_path, text, fields, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_json(tmp_path / "a.json", fields)
    assert "a.json" in str(error.value)


def test_large_and_missing_json(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        os.truncate(file.fileno(), LARGEST_JSON + 1)
    with pytest.raises(ValueError, match="67,108,865 bytes; at most 64 MiB of JSON are read"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
    (tmp_path / "c.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="c.json.* cannot be read as JSON"):
        read_json(tmp_path / "c.json")
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_paths_are_not_taken_for_ids_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/bert").mkdir(parents=True)
    missing = ("dataset", "out/other", "../a", "./a/b", "/nowhere", "a/b/c", "~/data")
    assert all(map(is_missing_path, missing))
    assert not any(map(is_missing_path, ("owner/name", "out", "out/bert")))
    monkeypatch.chdir(tmp_path / "out")
    assert is_missing_path("out/bert") and not is_missing_path("outer/bert")


def test_a_private_file_gets_the_permissions_of_a_new_one(tmp_path):
    """safetensors writes files that only their owner may read; a shared folder is for all."""
    (tmp_path / "new").touch()
    with replacing(tmp_path / "file") as part:
        part.touch(0o600)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2

"""Download of the published files: verification, resumption, retries and error messages.

The server is a web server on loopback that can cut connections, flip bytes, refuse requests and change files.
"""

import errno
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import dataclass, replace
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile

import numpy as np
import pytest

from bioscan_hf.release import catalogue as inventory
from bioscan_hf.release import download as downloader
from bioscan_hf.release import local_files, network
from bioscan_hf.release.catalogue import BOXES_TSV, METADATA_CSV, METADATA_ZIP, needs
from bioscan_hf.release.download import DownloadError, download
from bioscan_hf.release.local_files import CHECKED_FILE, check

TRAIN = "BIOSCAN_5M_cropped_256_train.zip"
EVAL = "BIOSCAN_5M_cropped_256_eval.zip"
PRETRAIN = "BIOSCAN_5M_cropped_256_pretrain.zip"
PARTS = ("BIOSCAN_5M_cropped_256_pretrain.01.zip", "BIOSCAN_5M_cropped_256_pretrain.02.zip")
WHOLE = "BIOSCAN_5M_cropped_256.zip"
UNCHECKED = "BIOSCAN_5M_original_256_train.zip"  # no checksum of it is published


@dataclass
class Asked:
    """A request and the bytes of the body sent; counted before they are sent."""

    method: str
    path: str
    range: str | None
    if_range: str | None
    sent: int = 0

    @property
    def name(self):
        return self.path.rsplit("/", 1)[1]


class Server(ThreadingHTTPServer):
    """Serves `files` (name -> bytes) with ranges and ETags, also below a Hub's /resolve/, and fails on demand."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(files)
        self.asked = []
        self.cuts = {}  # name -> bytes after which each of the next answers is cut
        self.answers = {}  # name -> (status, headers) of each of the next answers
        self.ranges = self.if_range = self.etags = True
        self.salt = ""  # begins every ETag
        self.pause = 0.0  # seconds after each block of 64 KiB
        self.revisions = {inventory.REVISION: inventory.REVISION, "main": "f" * 40, "a8cb2b5": "a8cb2b5" + "0" * 33}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self, name=None):
        return [a for a in self.asked if a.method == "GET" and name in (None, a.name)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        asked = Asked(self.command, path, self.headers.get("Range"), self.headers.get("If-Range"))
        self.server.asked.append(asked)
        self.answer(asked)

    do_HEAD = do_GET

    def answer(self, asked):
        server, name, path, headers = self.server, asked.name, asked.path, {}
        content = server.files.get(name)
        status = 200 if content is not None else 404
        if server.answers.get(name):
            status, headers = server.answers[name].pop(0)
        elif "/resolve/" in path:
            revision = path.split("/resolve/")[1].split("/")[0]
            commit = server.revisions.get(revision, revision if revision in server.revisions.values() else None)
            if commit is None:
                status, headers = 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
            elif content is None:
                status, headers = 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            else:
                true = getattr(server, "true", server.files)[name]
                headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{hashlib.sha256(true).hexdigest()}"'}
                headers["X-Linked-Size"] = str(len(true))
        body = b""
        if status == 200:
            etag = f'"{server.salt}{hashlib.md5(content).hexdigest()}"'
            headers = {**headers, **({"ETag": etag} if server.etags else {}), "Accept-Ranges": "bytes"}
            first = self.first_byte(etag)
            if first >= len(content):
                status, headers = 416, {"Content-Range": f"bytes */{len(content)}"}
            else:
                body = content[first:]
            if 0 < first < len(content):
                status = 206
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.send_body(asked, body)

    def first_byte(self, etag):
        asked = self.headers.get("Range")
        if asked is None or not self.server.ranges:
            return 0
        if self.server.if_range and self.headers.get("If-Range") not in (None, etag):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def send_body(self, asked, body):
        cuts = self.server.cuts.get(asked.name, [])
        stop = min(cuts.pop(0), len(body)) if cuts else len(body)
        try:
            while asked.sent < stop:
                block = body[asked.sent : min(asked.sent + 2**16, stop)]
                asked.sent += len(block)
                self.wfile.write(block)
                time.sleep(self.server.pause)
        except ConnectionError:  # the client was killed
            pass
        self.close_connection = True


def zipped(name, size=300_000):
    """A zip of random bytes that depend on its name, a little larger than `size`."""
    memory = io.BytesIO()
    with ZipFile(memory, "w") as file:
        seed = int.from_bytes(hashlib.md5(name.encode()).digest()[:4], "big")
        file.writestr("bioscan5m/x", np.random.default_rng(seed).bytes(size))
    return memory.getvalue()


def flipped(content, at=1000):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.fixture(scope="session")
def files():
    """Small stand-ins of the published files: name -> bytes."""
    return {file.name: zipped(file.name) for file in inventory.INVENTORY}


def small_inventory(files):
    """The inventory with sizes and digests of `files` where the real one has them."""

    def small(file):
        content = files[file.name]
        sums = [
            replace(c, size=len(content), digest=hashlib.new(c.algorithm, content).hexdigest()) for c in file.checksums
        ]
        return replace(file, checksums=tuple(sums))

    return tuple(small(file) for file in inventory.INVENTORY)


@pytest.fixture
def server(files, monkeypatch):
    monkeypatch.setattr(inventory, "INVENTORY", small_inventory(files))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def get(server, root, config="dna", split="all", **options):
    return download(root, config, split, source=server.url, pause=0.0, **options)


def states(found):
    return {state.name: state.state for state in found}


def names(config, split="all", **options):
    return [[[file.name for file in files] for files in need.variants] for need in needs(config, split, **options)]


def test_checksums_are_those_that_bioscan_dataset_publishes():
    """Every md5 of that package is in the catalogue."""
    from bioscan_dataset import BIOSCAN5M

    ours = {file.name: file.checksums for file in inventory.INVENTORY}
    assert [c.digest for c in ours[METADATA_ZIP]] == [BIOSCAN5M.meta["archive_md5"]]
    assert inventory.CSV_CHECKSUM.digest == BIOSCAN5M.meta["csv_md5"]
    theirs = {
        data["url"].rsplit("/", 1)[1]: data["md5"] for zips in BIOSCAN5M.zip_files.values() for data in zips.values()
    }
    assert len(theirs) == 4
    assert {name: [c.digest for c in ours[name]] for name in theirs} == {n: [md5] for n, md5 in theirs.items()}
    photos = {path: md5["cropped_256"] for samples in BIOSCAN5M.image_files.values() for path, md5 in samples}
    assert photos == inventory.SAMPLE_PHOTOS and len(photos) == 17


def test_files_needed_by_each_config():
    metadata = [[METADATA_ZIP]]
    assert names("dna", "train") == [metadata]
    assert names("cropped_256", "train") == [metadata, [[TRAIN], [WHOLE]]]
    assert names("cropped_256", "val+test_unseen") == [metadata, [[EVAL], [WHOLE]]]
    assert names("cropped_256", "seen") == [metadata, [[TRAIN], [WHOLE]], [[EVAL], [WHOLE]]]
    assert names("cropped_256") == [
        metadata,
        [[PRETRAIN], [*PARTS], [WHOLE]],
        [[TRAIN], [WHOLE]],
        [[EVAL], [WHOLE]],
    ]
    pretrain = "BIOSCAN_5M_original_256_pretrain.zip"
    assert names("original_256", "pretrain") == [metadata, [[pretrain], ["BIOSCAN_5M_original_256.zip"]]]
    assert names("cropped", boxes=True) == [
        metadata,
        [[BOXES_TSV]],
        [["BIOSCAN_5M_cropped.01.zip", "BIOSCAN_5M_cropped.02.zip"]],
    ]
    assert names("original_full", "val")[1] == [[f"BIOSCAN_5M_original_full.0{i}.zip" for i in range(1, 6)]]


def test_invalid_arguments_create_nothing(tmp_path):
    with pytest.raises(ValueError, match="Unknown source 'zenodo': give 'hub', or the http"):
        download(tmp_path / "new", source="zenodo")
    with pytest.raises(ValueError, match="Unknown config 'cropped_265'"):
        download(tmp_path / "new", "cropped_265")
    with pytest.raises(ValueError, match="Unknown split 'tran'"):
        check(tmp_path / "new", "dna", "tran")
    with pytest.raises(ValueError, match="holds a user name or password") as error:
        download(tmp_path / "new", source="https://ann:s3cret@example.org/files")
    assert "s3cret" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_correct_files_are_not_requested_again(server, files, tmp_path):
    seen = []
    found = get(server, tmp_path, "cropped_256", "seen", progress=lambda *step: seen.append(step))
    assert states(found) == {METADATA_ZIP: "right", TRAIN: "right", EVAL: "right"}
    assert {s.name: s.fetched for s in found} == {s.name: len(files[s.name]) for s in found}
    for name in (METADATA_ZIP, TRAIN, EVAL):
        assert (tmp_path / name).read_bytes() == files[name]
    assert [len(server.gets(name)) for name in (METADATA_ZIP, TRAIN, EVAL)] == [1, 1, 1]
    size = len(files[TRAIN])
    assert (f"downloading {TRAIN}", size, size) in seen and (f"checking {TRAIN}", size, size) in seen
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {METADATA_ZIP, TRAIN, EVAL, CHECKED_FILE, ".bioscan_hf_download.lock"}

    server.asked.clear()
    again = get(server, tmp_path, "cropped_256", "seen", progress=lambda *step: pytest.fail(f"{step} again"))
    assert states(again) == states(found) and all(state.fetched == 0 for state in again)
    assert states(check(tmp_path, "cropped_256", "train")) == {METADATA_ZIP: "right", TRAIN: "right"}
    assert server.asked == []


def test_a_cut_connection_continues_where_it_was_cut(server, files, tmp_path):
    """Cut after 100,000 bytes, then after 50,000 more: three requests, and every byte is sent once."""
    server.cuts[METADATA_ZIP] = [100_000, 50_000]
    (state,) = get(server, tmp_path)
    assert state.state == "right" and state.fetched == len(files[METADATA_ZIP])
    assert [a.range for a in server.gets()] == [None, "bytes=100000-", "bytes=150000-"]
    assert sum(a.sent for a in server.gets()) == len(files[METADATA_ZIP])


def test_gives_up_after_attempts_without_progress(server, tmp_path):
    """The first request brings 1,000 bytes; the next three (one and two retries) bring none."""
    server.cuts[METADATA_ZIP] = [1000] + [0] * 50
    with pytest.raises(DownloadError, match=r"interrupted after 1,000 of [\d,]+ bytes; gave up after 3") as error:
        get(server, tmp_path, retries=2)
    assert server.url in str(error.value) and "the same command continues" in str(error.value)
    assert len(server.gets()) == 4
    (state,) = error.value.states
    assert (state.state, state.size, state.fetched) == ("partial", 1000, 1000)
    assert states(check(tmp_path)) == {METADATA_ZIP: "partial"}
    server.cuts.clear()
    assert get(server, tmp_path)[0].fetched == len(server.files[METADATA_ZIP]) - 1000


def test_a_server_without_ranges_restarts_but_not_forever(server, files, tmp_path):
    server.ranges = False
    server.cuts[METADATA_ZIP] = [200_000]
    (state,) = get(server, tmp_path / "a")
    assert (tmp_path / "a" / METADATA_ZIP).read_bytes() == files[METADATA_ZIP]
    assert state.fetched == len(files[METADATA_ZIP]) + 200_000
    server.asked.clear()
    server.cuts[METADATA_ZIP] = [200_000] * 50
    with pytest.raises(DownloadError, match="gave up after 3 attempts"):
        get(server, tmp_path / "b", retries=2)
    assert len(server.gets()) == 4


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_on_the_server_is_not_spliced(server, files, tmp_path, if_range):
    """This file has no published checksum, so only the ETag identifies it; some servers ignore If-Range."""
    server.cuts[UNCHECKED] = [100_000] + [0] * 6
    with pytest.raises(DownloadError):
        get(server, tmp_path, "original_256", "train", retries=0)
    server.cuts.clear()
    server.if_range = if_range
    server.files[UNCHECKED] = zipped("another version", 280_000)
    found = get(server, tmp_path, "original_256", "train")
    assert states(found)[UNCHECKED] == "unverified"
    assert server.gets(UNCHECKED)[1].if_range == f'"{hashlib.md5(files[UNCHECKED]).hexdigest()}"'
    assert (tmp_path / UNCHECKED).read_bytes() == server.files[UNCHECKED]


@pytest.mark.parametrize(("name", "begins"), [(METADATA_ZIP, "bytes=100000-"), (UNCHECKED, None)])
def test_without_etag_only_files_with_a_checksum_continue(server, tmp_path, name, begins):
    """A file with a published checksum can be checked as a whole; others restart."""
    server.etags = False
    server.cuts[name] = [100_000]
    get(server, tmp_path, "original_256", "train")
    assert [a.range for a in server.gets(name)] == [None, begins]
    assert (tmp_path / name).read_bytes() == server.files[name]


def test_another_mirror_continues_a_file_that_can_be_checked(server, files, tmp_path):
    server.cuts[METADATA_ZIP] = [100_000, 0]
    with pytest.raises(DownloadError):
        get(server, tmp_path, retries=0)
    download(tmp_path, source=server.url + "/mirror/", pause=0.0)
    assert server.gets()[-1].range == "bytes=100000-" and server.gets()[-1].path == f"/mirror/{METADATA_ZIP}"
    assert server.gets()[-1].if_range is None
    assert (tmp_path / METADATA_ZIP).read_bytes() == files[METADATA_ZIP]


def test_a_part_longer_than_the_file_restarts(server, files, tmp_path):
    """The server answers 416, and the file restarts."""
    server.cuts[UNCHECKED] = [200_000, 0]
    with pytest.raises(DownloadError):
        get(server, tmp_path, "original_256", "train", retries=0)
    with open(tmp_path / f"{UNCHECKED}.part", "ab") as part:
        part.write(b"x" * 200_000)
    get(server, tmp_path, "original_256", "train")
    assert [a.range for a in server.gets(UNCHECKED)][2:] == ["bytes=400000-", None]
    assert (tmp_path / UNCHECKED).read_bytes() == files[UNCHECKED]


CHILD = """
import json, sys
from dataclasses import replace
from bioscan_hf.release import catalogue as inventory
from bioscan_hf.release.download import DownloadError, download
root, config, split, options, known = sys.argv[1], sys.argv[2], sys.argv[3], *map(json.loads, sys.argv[4:])
checksums = {name: tuple(inventory.Checksum(*c) for c in sums) for name, sums in known.items()}
inventory.INVENTORY = tuple(replace(f, checksums=checksums[f.name]) for f in inventory.INVENTORY)
try:
    found = download(root, config, split, pause=0.0, **options)
    print(json.dumps({"states": {s.name: [s.state, s.fetched] for s in found}}))
except DownloadError as error:
    print(json.dumps({"error": str(error), "states": {s.name: [s.state, s.fetched] for s in error.states}}))
"""


def start_child(root, config, split, hub=None, **options):
    """Another process that downloads; with `hub`, one for which that server is the Hub."""
    known = {f.name: [[c.size, c.algorithm, c.digest] for c in f.checksums] for f in inventory.INVENTORY}
    arguments = [str(root), config, split, json.dumps(options), json.dumps(known)]
    environment = {**os.environ, "HF_HOME": str(root) + "-hf", "HF_HUB_DISABLE_XET": "1", "PYTHONWARNINGS": "ignore"}
    if hub is not None:
        environment.update(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def run_child(*arguments, **options):
    out, _ = start_child(*arguments, **options).communicate(timeout=60)
    return json.loads(out)


def kill_midway(child, part, size):
    """Kills the process when `part` has `size` bytes, and returns how many it has then."""
    end = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= size):
        assert time.monotonic() < end and child.poll() is None, "the download did not come so far"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return part.stat().st_size


@pytest.mark.parametrize("source", ["url", "hub"])
def test_a_killed_download_continues(server, files, tmp_path, monkeypatch, source):
    content = zipped(METADATA_ZIP, 8_000_000)
    server.files[METADATA_ZIP] = content
    monkeypatch.setattr(inventory, "INVENTORY", small_inventory({**files, METADATA_ZIP: content}))
    root, part = tmp_path / "root", tmp_path / "root" / f"{METADATA_ZIP}.part"
    options = {"source": server.url} if source == "url" else {"hub": server}
    server.pause = 0.01
    there = kill_midway(start_child(root, "dna", "all", **options), part, 1_000_000)
    assert 1_000_000 <= there < len(content) and not (root / METADATA_ZIP).exists()
    assert states(check(root)) == {METADATA_ZIP: "partial"}
    server.pause = 0.0
    server.salt = "" if source == "url" else "another node of the network"  # a commit's file cannot change
    assert run_child(root, "dna", "all", **options) == {"states": {METADATA_ZIP: ["right", len(content) - there]}}
    assert f"bytes={there}-" in [a.range for a in server.gets()]
    assert (root / METADATA_ZIP).read_bytes() == content


def test_a_byte_flipped_in_transfer_is_reported(server, files, tmp_path):
    right, wrong = files[TRAIN], flipped(files[TRAIN])
    server.files[TRAIN] = wrong
    with pytest.raises(DownloadError, match=f"1 of 2 files are missing:\n  {TRAIN}: damaged") as error:
        get(server, tmp_path, "cropped_256", "train")
    expected = f"its md5 is {hashlib.md5(wrong).hexdigest()}, published is {hashlib.md5(right).hexdigest()}"
    assert expected in str(error.value) and f"{server.url}/{TRAIN}" in str(error.value)
    assert states(error.value.states) == {METADATA_ZIP: "right", TRAIN: "damaged"}
    assert not list(tmp_path.glob(f"{TRAIN}*"))  # neither the file nor its .part
    server.files[TRAIN] = right
    server.asked.clear()
    get(server, tmp_path, "cropped_256", "train")
    assert (tmp_path / TRAIN).read_bytes() == right
    assert [(a.name, a.range) for a in server.gets()] == [(TRAIN, None)]


def test_a_byte_flipped_on_disk_is_reported_and_the_file_downloaded_again(server, files, tmp_path):
    get(server, tmp_path, "cropped_256", "train")
    before = (tmp_path / TRAIN).stat()
    (tmp_path / TRAIN).write_bytes(flipped(files[TRAIN]))
    os.utime(tmp_path / TRAIN, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert states(check(tmp_path, "cropped_256", "train"))[TRAIN] == "right"  # size and time are unchanged
    found = check(tmp_path, "cropped_256", "train", reread=True)
    assert states(found) == {METADATA_ZIP: "right", TRAIN: "damaged"}
    assert hashlib.md5(files[TRAIN]).hexdigest() in found[1].detail
    said = []
    server.asked.clear()
    get(server, tmp_path, "cropped_256", "train", reread=True, say=said.append)
    assert [a.name for a in server.asked] == [TRAIN]
    assert said[0].startswith(f"{TRAIN} is damaged: its md5 is {hashlib.md5(flipped(files[TRAIN])).hexdigest()}")
    assert f"Renamed to {TRAIN}.damaged" in said[0]
    assert (tmp_path / f"{TRAIN}.damaged").read_bytes() == flipped(files[TRAIN])
    assert (tmp_path / TRAIN).read_bytes() == files[TRAIN]


def test_a_file_of_another_size_is_not_downloaded(server, tmp_path):
    server.files[METADATA_ZIP] = zipped(METADATA_ZIP, 10_000_000)
    server.pause = 0.05  # the whole would take 7 s
    with pytest.raises(DownloadError, match=r"has 10,000,\d+ bytes, published are 300,\d+ bytes: another version"):
        get(server, tmp_path)


def test_a_refusal_names_the_address_and_other_files_are_downloaded(server, tmp_path):
    server.answers[METADATA_ZIP] = [(403, {})]
    with pytest.raises(DownloadError, match=f"{server.url}/{METADATA_ZIP} answers 403 Forbidden") as error:
        get(server, tmp_path, "cropped_256", "train")
    assert states(error.value.states) == {METADATA_ZIP: "missing", TRAIN: "right"}
    assert len(server.gets(METADATA_ZIP)) == 1  # a permanent failure


def test_retry_after_is_respected(server, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(network.time, "sleep", slept.append)
    server.answers[METADATA_ZIP] = [(503, {}), (429, {"Retry-After": "7"}), (500, {})]
    assert states(download(tmp_path, source=server.url, pause=1.0)) == {METADATA_ZIP: "right"}
    assert [pause for pause in slept if pause >= 1][:3] == [1.0, 7.0, 4.0]  # others wait for threads


def test_no_server(tmp_path, server):
    """The error names the host."""
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(
        DownloadError, match="network fault at 127.0.0.1: .*Connection refused.*gave up after 3 attempt"
    ):
        download(tmp_path, source=url, retries=2, pause=0.0)


FAULTS = [
    ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed or bad record mac"),
    ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    ssl.SSLCertVerificationError(1, "certificate verify failed: certificate is not yet valid"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    OSError(errno.ENETDOWN, "Network is down"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    TimeoutError("timed out"),
    ConnectionResetError("reset"),
    OSError("Tunnel connection failed: 502 Bad Gateway"),
    IncompleteRead(b""),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("where", ["before the answer", "in the middle"])
def test_faults_of_the_network_are_tried_again(server, files, tmp_path, monkeypatch, fault, where):
    """TLS, routing, names, proxies, timeouts: the file goes on where it stopped, after pauses."""
    slept, calls = [], []
    monkeypatch.setattr(network.time, "sleep", slept.append)
    if where == "before the answer":
        true = network.urlopen

        def breaks(*arguments, **options):
            calls.append(1)
            if len(calls) <= 2:
                raise fault if isinstance(fault, IncompleteRead) else URLError(fault)
            return true(*arguments, **options)

        monkeypatch.setattr(network, "urlopen", breaks)
    else:
        read = http.client.HTTPResponse.read

        def breaks(response, amount=None):
            calls.append(1)
            if len(calls) in (2, 3):
                raise fault
            return read(response, 100_000)

        monkeypatch.setattr(http.client.HTTPResponse, "read", breaks)
    (state,) = download(tmp_path, source=server.url, pause=1.0)
    assert state.state == "right" and state.fetched == len(files[METADATA_ZIP])
    assert [pause for pause in slept if pause] == [1.0, 2.0 if where == "before the answer" else 1.0]
    if where == "in the middle":
        assert [a.range for a in server.gets()] == [None, "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize("fault", FAULTS[:6], ids=lambda fault: type(fault).__name__)
def test_a_lasting_fault_of_the_network_is_named_with_the_host(server, tmp_path, monkeypatch, fault):
    """What was downloaded before stays, and one file's fault does not stop the next file."""
    true = network.urlopen

    def breaks(request, **options):
        if request.full_url.endswith(METADATA_ZIP):
            raise URLError(fault)
        return true(request, **options)

    monkeypatch.setattr(network, "urlopen", breaks)
    with pytest.raises(DownloadError, match=f"{METADATA_ZIP}: missing .network fault at 127.0.0.1: ") as error:
        get(server, tmp_path, "cropped_256", "train", retries=1)
    assert str(fault.strerror or fault) in str(error.value) and "gave up after 2 attempts" in str(error.value)
    assert states(error.value.states) == {METADATA_ZIP: "missing", TRAIN: "right"}


@pytest.mark.parametrize("status", [500, 501, 507, 520, 599, 429])
def test_every_answer_of_a_broken_server_is_tried_again(server, tmp_path, status):
    server.answers[METADATA_ZIP] = [(status, {})] * 2
    assert states(get(server, tmp_path)) == {METADATA_ZIP: "right"}
    assert len(server.gets()) == 3


def test_the_variant_is_asked_for_again_after_a_fault(server, files, tmp_path):
    """A fault of the HEAD request does not choose a variant that the server does not have."""
    server.files = {name: files[name] for name in (METADATA_ZIP, *PARTS)}
    server.answers[PRETRAIN] = [(503, {})]
    assert set(states(get(server, tmp_path, "cropped_256", "pretrain"))) == {METADATA_ZIP, *PARTS}


def test_the_proxy_is_named(tmp_path, monkeypatch):
    """Without its password."""
    monkeypatch.setenv("http_proxy", "http://ann:secret-word@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(DownloadError, match=r"network fault at example.org \(by the proxy 127.0.0.1:9\)") as error:
        download(tmp_path, source="http://example.org", retries=0, pause=0.0)
    assert "secret-word" not in str(error.value)


def test_a_file_that_cannot_be_written_does_not_stop_the_others(server, tmp_path, monkeypatch):
    """A folder where the .part would grow, and a full disk."""
    (tmp_path / f"{METADATA_ZIP}.part").mkdir(parents=True)
    with pytest.raises(DownloadError, match=f"{METADATA_ZIP}: missing .*[Ii]s a directory") as error:
        get(server, tmp_path, "cropped_256", "train")
    assert states(error.value.states) == {METADATA_ZIP: "missing", TRAIN: "right"}

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloader, "_receive", full)
    with pytest.raises(DownloadError, match="the disk is full: free some space"):
        get(server, tmp_path / "full")


def test_a_check_writes_nothing(server, files, tmp_path):
    """No lock, no digests, also with --reread and for files that are there; the folder need not exist."""
    for name in (METADATA_ZIP, TRAIN):
        (tmp_path / name).write_bytes(files[name])
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())}
    for reread in (False, True):
        assert set(states(check(tmp_path, "cropped_256", "train", boxes=True, reread=reread)).values()) == {
            "right",
            "missing",
        }
        states(check(tmp_path / "absent", reread=reread))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())} == before
    get(server, tmp_path, "cropped_256", "train")
    kept = (tmp_path / CHECKED_FILE).read_bytes()
    (tmp_path / TRAIN).write_bytes(flipped(files[TRAIN]))
    assert states(check(tmp_path, "cropped_256", "train", reread=True))[TRAIN] == "damaged"
    assert (tmp_path / CHECKED_FILE).read_bytes() == kept


@pytest.mark.parametrize(("offered", "taken"), [(PARTS, PARTS), ([PRETRAIN], [PRETRAIN]), ([WHOLE], [WHOLE])])
def test_variant_offered_by_the_server(server, files, tmp_path, offered, taken):
    server.files = {name: files[name] for name in (METADATA_ZIP, *offered)}
    found = get(server, tmp_path, "cropped_256", "pretrain")
    assert set(states(found)) == {METADATA_ZIP, *taken}
    assert all(state.usable for state in found)


def test_a_begun_variant_is_continued_and_the_whole_zip_is_enough(server, files, tmp_path):
    (tmp_path / PARTS[0]).write_bytes(files[PARTS[0]])
    found = get(server, tmp_path, "cropped_256", "pretrain")
    assert states(found) == {METADATA_ZIP: "right", PARTS[0]: "right", PARTS[1]: "right"}
    assert server.gets(PARTS[0]) == []
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / WHOLE).write_bytes(files[WHOLE])
    server.asked.clear()
    assert states(get(server, tmp_path, "cropped_256")) == {METADATA_ZIP: "right", WHOLE: "right"}
    assert [a.name for a in server.asked] == [METADATA_ZIP]


def test_missing_files_are_listed(tmp_path, server, files):
    (tmp_path / UNCHECKED).write_bytes(files[UNCHECKED])
    found = {state.name: state for state in check(tmp_path, "original_256", "seen", boxes=True)}
    assert states(found.values()) == {
        METADATA_ZIP: "missing",
        BOXES_TSV: "missing",
        UNCHECKED: "unverified",
        "BIOSCAN_5M_original_256_eval.zip": "missing",
    }
    assert found[METADATA_ZIP].detail == f"{len(files[METADATA_ZIP]):,} bytes"
    assert "only on the Google Drive linked at" in found[BOXES_TSV].detail
    (tmp_path / UNCHECKED).write_bytes(files[UNCHECKED][:-100])
    state = check(tmp_path, "original_256", "train")[1]
    assert (state.state, state.detail) == ("damaged", "the end of the zip is missing")


def test_disk_space_is_checked_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloader.shutil, "disk_usage", lambda path: usage(10**9, 0, 400_000))
    with pytest.raises(DownloadError, match=r"Not enough disk space in .* are needed .*400,000 are free"):
        get(server, tmp_path, "cropped_256", "train")
    assert server.gets() == []
    monkeypatch.setattr(downloader.shutil, "disk_usage", lambda path: usage(10**9, 0, 301_000))
    # The size of this file is not published.
    with pytest.raises(DownloadError, match=rf"{UNCHECKED}: missing \(Not enough disk space") as error:
        monkeypatch.setattr(downloader, "_check_space", lambda root, todo: None)
        server.files[UNCHECKED] = zipped(UNCHECKED, 400_000)
        get(server, tmp_path, "original_256", "train")
    assert states(error.value.states)[METADATA_ZIP] == "right"
    assert not (tmp_path / f"{UNCHECKED}.part").exists()


def test_only_one_download_at_a_time(server, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".bioscan_hf_download.lock"):
        with pytest.raises(RuntimeError, match="Another download is writing to"):
            get(server, tmp_path)
    assert server.asked == []


def test_unpacked_files_are_used_if_their_samples_are_correct(server, tmp_path, monkeypatch):
    """The CSV is checked by its md5, the photos by the md5 of the first and last of each split."""
    csv, photo = b"processid\n", b"\xff\xd8 a photo"
    monkeypatch.setattr(local_files, "CSV_CHECKSUM", inventory.Checksum(None, "md5", hashlib.md5(csv).hexdigest()))
    samples = {"train/0/A.jpg": hashlib.md5(photo).hexdigest(), "val/A.jpg": hashlib.md5(b"another").hexdigest()}
    monkeypatch.setattr(local_files, "SAMPLE_PHOTOS", samples)
    for name in (f"bioscan5m/metadata/csv/{METADATA_CSV}", *(f"bioscan5m/images/cropped_256/{s}" for s in samples)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(csv if name.endswith("csv") else photo)
    found = get(server, tmp_path, "cropped_256", "train")
    assert [state.state for state in found] == ["unpacked", "unpacked"] and server.asked == []
    state = check(tmp_path, "cropped_256", "val")[1]
    assert (state.name, state.state) == (EVAL, "missing") and "val/A.jpg is not the published photo" in state.detail
    (tmp_path / "bioscan5m/images/cropped_256/train/0/A.jpg").unlink()
    (tmp_path / f"bioscan5m/metadata/csv/{METADATA_CSV}").write_bytes(b"changed")
    metadata, train = check(tmp_path, "cropped_256", "train")
    assert "is not the published file: its md5 is" in metadata.detail and "has no train/0/A.jpg" in train.detail
    said = []
    assert {"right"} == {s.state for s in get(server, tmp_path, "cropped_256", "train", say=said.append)}
    assert any("is not the published file" in line for line in said)


def test_an_unreadable_file_of_digests_is_named(tmp_path, server):
    (tmp_path / CHECKED_FILE).write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON .* Delete the file"):
        check(tmp_path)


def test_checksums_reported_by_the_hub_are_used(server, files, tmp_path):
    """The Hub reports the sha256 of large files. A second run and a check send no request."""
    root = tmp_path / "root"
    found = run_child(root, "cropped_256", "pretrain", hub=server)["states"]
    assert found == {name: ["right", len(files[name])] for name in (METADATA_ZIP, PRETRAIN)}
    assert [a.path for a in server.gets(PRETRAIN)] == [
        f"/datasets/bioscan-ml/BIOSCAN-5M/resolve/{inventory.REVISION}/{PRETRAIN}"
    ]
    server.asked.clear()
    again = run_child(root, "cropped_256", "pretrain", hub=server)["states"]
    assert again == {name: ["right", 0] for name in found}
    assert [state.detail for state in check(root, "cropped_256", "pretrain")] == [
        "md5 as published",
        "sha256 as published",
    ]
    assert server.asked == []


def test_the_hub_sends_a_flipped_byte(server, files, tmp_path):
    server.true = dict(server.files)
    server.files[PRETRAIN] = flipped(files[PRETRAIN])
    result = run_child(tmp_path / "root", "cropped_256", "pretrain", hub=server)
    assert result["states"] == {
        METADATA_ZIP: ["right", len(files[METADATA_ZIP])],
        PRETRAIN: ["damaged", len(files[PRETRAIN])],
    }
    wrong, right = (hashlib.sha256(content).hexdigest() for content in (server.files[PRETRAIN], files[PRETRAIN]))
    assert f"its sha256 is {wrong}, published is {right}" in result["error"]


def test_another_revision_is_checked_against_the_hub(server, files, tmp_path):
    """At another revision the published md5 does not apply: the file is replaced."""
    root = tmp_path / "root"
    root.mkdir()
    (root / METADATA_ZIP).write_bytes(files[METADATA_ZIP])
    server.files[METADATA_ZIP] = zipped("a later version")
    found = run_child(root, "dna", "all", hub=server, revision="main")
    assert found["states"] == {METADATA_ZIP: ["right", len(server.files[METADATA_ZIP])]}
    assert (root / METADATA_ZIP).read_bytes() == server.files[METADATA_ZIP]
    assert server.gets()[0].path.split("/resolve/")[1] == f"{'f' * 40}/{METADATA_ZIP}"
    result = run_child(root, "dna", "all", hub=server, revision="v9")
    assert "resolve/v9/" in result["error"] and "Revision Not Found" in result["error"]


def test_files_that_the_hub_does_not_have(server, tmp_path):
    """Full-size photos are on Google Drive only; offline, the error has the address and the reason."""
    result = run_child(tmp_path / "root", "cropped", "train", hub=server)
    assert result["states"][METADATA_ZIP][0] == "right"
    assert "BIOSCAN_5M_cropped.01.zip: missing" in result["error"] and "by hand" in result["error"]
    with pytest.raises(DownloadError, match=f"{METADATA_ZIP}: .*[Oo]ffline"):
        download(tmp_path / "offline")


def test_canadian_invertebrates(server, tmp_path, monkeypatch):
    """One file at its own address and md5; a check needs no network; other options would do nothing."""
    content = b"processid,split\n" + b"P1,train\n" * 1000
    name, md5 = inventory.CANADIAN.name, hashlib.md5(content).hexdigest()
    assert [sum.digest for sum in inventory.CANADIAN.checksums] == ["b93517975176a12f3c07f21be8c37fa5"]
    server.files[name] = content
    monkeypatch.setattr(
        inventory, "CANADIAN", replace(inventory.CANADIAN, checksums=(inventory.Checksum(None, "md5", md5),))
    )
    with pytest.raises(DownloadError, match="sent a wrong file, which was deleted"):
        server.files[name] = flipped(content)
        get(server, tmp_path, dataset="canadian-invertebrates")
    server.files[name] = content
    assert states(get(server, tmp_path, dataset="canadian-invertebrates")) == {name: "right"}
    assert (tmp_path / name).read_bytes() == content
    assert states(check(tmp_path, dataset="canadian-invertebrates")) == {name: "right"}
    for options in ({"config": "cropped_256"}, {"split": "train"}, {"boxes": True}):
        with pytest.raises(ValueError, match="leave config, split and boxes out"):
            check(tmp_path, dataset="canadian-invertebrates", **options)
    with pytest.raises(ValueError, match="Unknown dataset 'bioscan'"):
        check(tmp_path, dataset="bioscan")


def test_address_of_canadian_invertebrates(server, tmp_path):
    """The repository and commit of the published code; the sha256 that the Hub reports for it counts too."""
    name = inventory.CANADIAN.name
    server.files[name] = b"x" * 1000
    result = run_child(tmp_path / "root", "dna", "all", hub=server, dataset="canadian-invertebrates")
    assert result == {"states": {name: ["right", 1000]}}
    server.true, server.files = dict(server.files), {name: b"y" * 1000}
    result = run_child(tmp_path / "other", "dna", "all", hub=server, dataset="canadian-invertebrates")
    assert "published is b93517975176a12f3c07f21be8c37fa5" in result["error"]
    assert server.gets()[0].path == (
        f"/datasets/bioscan-ml/CanadianInvertebrates-ML/resolve/a8cb2b5{'0' * 33}/CanInv_metadata.csv"
    )

"""Several processes at once, and processes killed at any write: the same files in the end, or a clear refusal.

All processes are real. `BIOSCAN_HF_KILLS=20 python -m pytest tests/dataset/test_concurrency.py` kills each command 20
times instead of 3.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cloudpickle
import distributed
import minihub
import pytest
from datasets import Image

from bioscan_hf.cli.main import main
from bioscan_hf.dataset import executors
from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.files import MAIN_GUARD, TEMPORARY
from bioscan_hf.release.catalogue import BOXES_TSV, METADATA_CSV, METADATA_ZIP
from bioscan_hf.release.photos import Photos

KILLS = int(os.environ.get("BIOSCAN_HF_KILLS", "3"))
SIZES = {"dna": 100, "cropped_256": 60}


def contents(folder):
    """Path -> bytes of every file that is not hidden."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def leftovers(folder):
    return [path.name for path in Path(folder).rglob("*") if path.name.endswith(TEMPORARY)]


def start(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


# ---- killed at any write -------------------------------------------------------------------------------------------

FORKS = """
import json, os, signal, sys, traceback
folder, *given = json.loads(sys.argv[1])
{work}

def run(stop):
    # A fork that works, and kills itself at file event number `stop` below `folder`.
    events = 0
    def count(event, arguments):
        nonlocal events
        if event in watched and str(arguments[0]).startswith(folder):
            events += 1
            if events == stop:
                os.kill(os.getpid(), signal.SIGKILL)
    watched = {{"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}}
    sys.addaudithook(count)
    try:
        work()
        print("ended", events, flush=True)
    except BaseException:
        traceback.print_exc()
        print("failed", events, flush=True)
    os._exit(0)

for line in sys.stdin:
    if not (pid := os.fork()):
        run(int(line))
    if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
        print("killed", 0, flush=True)
"""


def check_kills(work, folder, given, result, **options):
    """A run that was killed, and maybe killed again while it went on, ends like one that was never killed.

    Args:
        work: Code that defines `work()`, which writes to or reads from `folder` and uses the list `given`.
        result: `result(clear)` returns the result; with `clear`, it deletes it afterwards.
    """
    process = start(FORKS.format(work=work), json.dumps([str(folder), *map(str, given)]), **options)

    def run(stop):
        process.stdin.write(f"{stop}\n")
        process.stdin.flush()
        state, events = process.stdout.readline().split()
        return state, int(events)

    state, events = run(0)
    expected = result(clear=True)
    assert state == "ended" and events > 10 and expected
    killed = 0
    while killed < KILLS:
        stop = 1 + (events - 2) * (killed + 1) // KILLS  # up to the last event
        assert run(stop)[0] == "killed"
        killed += 1
        if killed < KILLS and killed % 2 and run(stop // 2 + 1)[0] == "killed":
            killed += 1
        assert run(0)[0] == "ended"
        assert result(clear=True) == expected
    process.communicate(timeout=60)


def folder_result(folder):
    def result(clear):
        assert not leftovers(folder)
        found = contents(folder)
        if clear:
            shutil.rmtree(folder)
        return found

    return result


BUILD = """
from bioscan_hf.dataset.build import build
def work():
    build(given[0], folder, rows_per_shard={"dna": 100, "cropped_256": 60})
"""


@pytest.mark.slow
def test_a_build_killed_at_any_write(release, tmp_path):
    check_kills(BUILD, tmp_path / "out", [release], folder_result(tmp_path / "out"))


EMBED = """
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.embed import embed
data = load_bioscan5m(given[0], "dna", "pretrain")
def work():
    embed(*load_encoder("kmer:3"), data, output=folder, shard_size=40)
"""


@pytest.mark.slow
def test_embedding_killed_at_any_write(dataset, tmp_path):
    check_kills(EMBED, tmp_path / "out", [dataset], folder_result(tmp_path / "out"))


class Ranges(BaseHTTPRequestHandler):
    """Answers requests for `files` of the server, from any byte on."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        content = self.server.files.get(self.path.lstrip("/"))
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(404 if content is None else 206 if first else 200)
        body = (content or b"")[first:]
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):  # the client was killed
                self.wfile.write(body)

    do_HEAD = do_GET


@contextmanager
def serve(files):
    """Address of a server of files: name -> bytes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.files, server.daemon_threads = files, True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


PUBLISHED = {name: hashlib.sha512(name.encode()).digest() * 2_000 for name in (METADATA_ZIP, METADATA_CSV, BOXES_TSV)}

DOWNLOAD = """
import hashlib
from dataclasses import replace
from bioscan_hf.release import catalogue
from bioscan_hf.release.download import download
contents = {file.name: hashlib.sha512(file.name.encode()).digest() * 2_000 for file in catalogue.INVENTORY}
def small(file):
    content = contents[file.name]
    sums = ((c, hashlib.new(c.algorithm, content).hexdigest()) for c in file.checksums)
    return replace(file, checksums=tuple(replace(c, size=len(content), digest=digest) for c, digest in sums))
catalogue.INVENTORY = tuple(map(small, catalogue.INVENTORY))
def work():
    download(folder, "dna", "all", source=given[0], boxes=True, pause=0)
"""


def downloaded(folder):
    def result(clear):
        found = {name: data for name, data in contents(folder).items() if not name.endswith(".json")}
        if clear:
            shutil.rmtree(folder)
        return found

    return result


def test_a_download_killed_at_any_write(tmp_path):
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    with serve(PUBLISHED) as address:
        check_kills(DOWNLOAD, tmp_path / "out", [address], downloaded(tmp_path / "out"), env=environment)


PUBLISH = """
from bioscan_hf.dataset import publish
publish.SHARDS_PER_COMMIT = 5
def work():
    publish.publish(folder, "tester/killed")
"""


@pytest.mark.slow
def test_publishing_killed_at_any_read(dataset, tmp_path):
    """Events are those of the build's files: before, in and after the upload of each."""
    folder = shutil.copytree(dataset, tmp_path / "dataset")
    with minihub.serve() as hub:

        def result(clear):
            assert contents(folder) == contents(dataset), "publishing changes nothing in the build"
            found = hub.files("tester/killed")
            if clear:
                del hub.repos["tester/killed"]
                hub.blobs.clear()  # or they need not be sent again
            return found

        check_kills(PUBLISH, folder, [], result, env=minihub.environment(hub, tmp_path / "home"))


# ---- several at once -----------------------------------------------------------------------------------------------

#: The processes begin together, when they are told.
TOGETHER = """
import json, sys
from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.release.download import download
print("ready", flush=True)
sys.stdin.readline()
"""


def together(code, arguments, **options):
    """Outputs of processes that run `code` at once, each with its arguments."""
    processes = [start(TOGETHER + code, *some, **options) for some in arguments]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [finish(process) for process in processes]


RANK = """
import hashlib
from datasets import Image
data = load_bioscan5m(sys.argv[1], "cropped_256", "val+test", streaming=sys.argv[2] == "stream", ranks=["species"])
digest = hashlib.sha256()
for row in data.cast_column("image", Image(decode=False)):
    digest.update(row["processid"].encode() + str(row["species_index"]).encode() + row["image"]["bytes"])
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_four_ranks_load_one_release(release, dataset, tmp_path):
    """One builds and the others wait, streams too; all get the rows and photos of the Parquet folder."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache")}
    data = load_bioscan5m(dataset, "cropped_256", "val+test", ranks=["species"])
    digest = hashlib.sha256()
    for row in data.cast_column("image", Image(decode=False)):
        digest.update(row["processid"].encode() + str(row["species_index"]).encode() + row["image"]["bytes"])
    ranks = [(release, kind) for kind in ("map", "stream", "map", "stream")]
    assert together(RANK, ranks, env=environment) == [f"{digest.hexdigest()}\n"] * 4
    cache = tmp_path / "cache/datasets/bioscan_hf"
    assert len([path for path in cache.glob("release-*") if path.is_dir()]) == 1 and not leftovers(cache)


BUILD_ONCE = """
try:
    manifest = build(sys.argv[1], sys.argv[2], rows_per_shard={"dna": 100, "cropped_256": 60})
    print("built" if manifest.complete else "incomplete")
except RuntimeError as error:
    print(error)
"""


def test_two_builds_into_one_folder_at_once(release, dataset, tmp_path):
    """One builds; the other is refused by name, or finds the whole build if it comes late."""
    told = together(BUILD_ONCE, [(release, tmp_path / "out")] * 2)
    assert "built\n" in told
    assert all(one == "built\n" or "Another build is writing to" in one for one in told)
    assert contents(tmp_path / "out") == contents(dataset) and not leftovers(tmp_path / "out")


DOWNLOAD_ONCE = """
try:
    work()
    print("downloaded")
except RuntimeError as error:
    print(error)
"""


def test_two_downloads_into_one_folder_at_once(tmp_path):
    code = f"folder, *given = sys.argv[1:]\n{DOWNLOAD}{DOWNLOAD_ONCE}"
    with serve(PUBLISHED) as address:
        told = together(code, [(tmp_path / "out", address)] * 2, env={**os.environ, "NO_PROXY": "127.0.0.1"})
    assert "downloaded\n" in told
    assert all(one == "downloaded\n" or "Another download is writing to" in one for one in told)
    found = {name: data for name, data in contents(tmp_path / "out").items() if name in PUBLISHED}
    assert found and all(data == PUBLISHED[name] for name, data in found.items()) and not leftovers(tmp_path / "out")


WORKERS = """
if __name__ == "__main__":
    import sys
    from multiprocessing import active_children
    from bioscan_hf.dataset.build import build
    def tell(config, done, total):
        if config == "cropped_256":
            print(json.dumps([child.pid for child in active_children()]), flush=True)
            sys.stdin.readline()
    import json
    build(sys.argv[1], sys.argv[2], rows_per_shard={"dna": 100, "cropped_256": 10}, workers=2, progress=tell)
"""


def test_workers_end_with_a_killed_build(release, tmp_path):
    """They would wait for tasks forever, and could write beside the build that goes on."""
    (tmp_path / "run.py").write_text(WORKERS)
    command = [sys.executable, str(tmp_path / "run.py"), str(release), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    workers = json.loads(process.stdout.readline())
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < end, "workers of a killed build are still there"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_script_without_a_main_guard(release, tmp_path):
    """Its processes would run it again, and wait forever for the lock of their parent."""
    script = tmp_path / "script.py"
    load = f"load_bioscan5m({str(release)!r}, 'cropped_256', 'val', num_proc=2, cache_dir={str(tmp_path / 'cache')!r})"
    script.write_text(f"from bioscan_hf import load_bioscan5m\n{load}\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert "RuntimeError: A process of the build runs this script again. Put the code" in ended.stderr
    assert ended.stderr.endswith(f"RuntimeError: One of 2 processes was ended. Is there enough memory? {MAIN_GUARD}\n")


# ---- Dask ----------------------------------------------------------------------------------------------------------


def slow_photos():
    """Makes the photos of this process slow, so that a worker can be killed while it writes a shard."""
    read = Photos.read

    def slow(self, processid, split):
        time.sleep(0.02)
        return read(self, processid, split)

    Photos.read = slow


def kill_a_worker(address, killed):
    """Kills the first worker that has a task."""
    with distributed.Client(address, set_as_default=False) as client:
        client.run(slow_photos)
        pids = client.run(os.getpid)
        killed.append("ready")
        while not (busy := [worker for worker, tasks in client.processing().items() if tasks]):
            time.sleep(0.01)
        time.sleep(0.3)  # it has begun
        os.kill(pids[busy[0]], signal.SIGKILL)
        killed.append(pids[busy[0]])


@pytest.mark.slow
def test_dask_with_a_worker_killed_half_way(release, tmp_path, monkeypatch):
    """`build --dask` gives the files of a build in one process, also when one of two workers is killed."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": ":0"}
    killed = []
    monkeypatch.chdir(release.parent)  # workers must not depend on our working directory
    with distributed.LocalCluster(processes=True, local_directory=str(tmp_path / "dask"), **options) as cluster:
        thread = threading.Thread(target=kill_a_worker, args=(cluster.scheduler_address, killed))
        thread.start()
        while not killed:
            time.sleep(0.01)
        main(["build", release.name, str(tmp_path / "out"), "--dask", cluster.scheduler_address, "--quiet"])
        thread.join(timeout=60)
    assert len(killed) == 2
    build(release, tmp_path / "plain")
    assert contents(tmp_path / "out") == contents(tmp_path / "plain") and not leftovers(tmp_path / "out")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "http://127.0.0.1:1"])
def test_no_dask_scheduler(release, tmp_path, capsys, monkeypatch, address):
    monkeypatch.setattr(executors, "DASK_TIMEOUT", 1)
    with pytest.raises(SystemExit) as ended:
        main(["build", str(release), str(tmp_path / "out"), "--dask", address])
    error = capsys.readouterr().err
    assert ended.value.code == 1 and f"No Dask scheduler answers at '{address}'" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_dask_scheduler_without_workers(monkeypatch):
    monkeypatch.setattr(executors, "DASK_TIMEOUT", 1)
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0") as cluster:
        with pytest.raises(ConnectionError, match="has no workers: start `dask worker tcp://127.0.0.1"):
            with executors.dask_executor(cluster.scheduler_address):
                pass

"""Mutated files for every reader: each is read, or refused by one line, in bounded time and memory.

    python tests/release/fuzz_readers.py --files 100000

The files are drawn from the seed, the reader and the number of the file alone, so `--only READER --first N --files 1`
repeats one of them and leaves it in the folder of `--keep`.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_inputs import READERS

SECONDS, MEGABYTES = 20, 400  # of one file
ALLOWED = (ValueError, OSError)

#: Pieces that readers handle in a special way.
PIECES = [
    *(b'"', b'""', b"\0", b"\r", b"\n", b"\r\n", b"\t", b",", b";", b"|", b"'", b"{", b"}", b"[", b"]", b":", b"-"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x80", b"\xe9", b"\xf0\x9f\x92\xa9", b"\xed\xa0\x80", b"\xc2\xa0"),
    *(b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc0", b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\x1f\x8b", b"PAR1"),
    *(b"NA", b"nan", b"inf", b"-1", b"1e999", b"999999999999999999999", b"../x", b"/tmp/x", b".", b"..", b"~", b">"),
    *(b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"A" * 70_000),
    *(b"train", b"processid", b"null", b"true", b"[" * 3000, b"\\u0000", b"\\ud800", b"---\n", b"&a ", b"*a", b"!!x "),
]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The data with one to eight changes."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        at = draw.randrange(len(changed) + 1)
        length = min(draw.choice((1, 1, 2, 4, 8, 30, 200)), len(changed) - at)
        kind = draw.randrange(9)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = draw.randrange(256)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length] * draw.choice((1, 1, 2, 20))
        elif kind == 4:
            changed[at:at] = draw.choice(PIECES)
        elif kind == 5:
            piece = draw.choice(PIECES)
            changed[at : at + len(piece)] = piece
        elif kind == 6:
            other = draw.randrange(len(changed) + 1)
            changed[at : at + length] = changed[other : other + length]
        elif kind == 7 and draw.random() < 0.5:
            del changed[at:]
        else:
            changed[at : at + length] = draw.randbytes(length)
    return bytes(changed)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()
    }


def peak() -> int:
    """Largest resident memory since the last call, in MB."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def resident() -> int:
    """Resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


class Bench:
    """One reader with its valid input, in a folder of its own.

    Args:
        root: New folder; the reader may write to its folder "output" only.
    """

    def __init__(self, name: str, root: Path, seed: int):
        self.name, self.root, self.seed = name, root, seed
        self.reader = READERS[name]
        (root / "input").mkdir(parents=True)
        self.targets = self.reader.make(root / "input")
        self.originals = {target: target.read_bytes() for target in self.targets}
        self.outcomes: Counter[str] = Counter()
        for _ in range(2):  # the valid input is read, and everything is imported
            self.read()
        self.before = snapshot(root / "input")

    def read(self) -> object:
        shutil.rmtree(self.root / "output", ignore_errors=True)
        (self.root / "output").mkdir()
        return self.reader.read(self.root / "input", self.root / "output")

    def one(self, number: int) -> str | None:
        """What is wrong with the reading of the mutated file of that number; None if nothing is."""
        draw = random.Random(f"{self.seed} {self.name} {number}")
        target = draw.choice(self.targets)
        wrap = self.reader.wrap.get(target.name)
        data = mutated(self.originals[target], draw) if wrap is None else wrap(self.originals[target], mutated, draw)
        target.write_bytes(data)
        peak()
        memory, start = resident(), time.process_time()  # of this process, whatever else the machine does
        try:
            found = self._outcome(target)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        used, seconds = peak() - memory, time.process_time() - start
        if found is None and used > MEGABYTES:
            found = f"used {used} MB"
        if found is None and seconds > SECONDS / 2:
            found = f"took {seconds:.0f} s"
        target.write_bytes(self.originals[target])
        after = snapshot(self.root / "input")
        if found is None and {path: about[0] for path, about in after.items()} != {
            path: about[0] for path, about in self.before.items()
        }:
            found = f"changed its input: {sorted(set(after) ^ set(self.before))}"
        if found is None and (others := {path.name for path in self.root.iterdir()} - {"input", "output"}):
            found = f"wrote beside its output: {sorted(others)}"
        return found

    def _outcome(self, target: Path) -> str | None:
        def late(*_: object) -> None:
            raise TimeoutError("hangs")

        signal.signal(signal.SIGPROF, late)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            self.read()
        except TimeoutError:
            return f"took over {SECONDS} s: {traceback.format_exc(limit=-6)}"
        except ALLOWED as error:
            text = str(error)
            if isinstance(error, UnicodeError | json.JSONDecodeError) or not text or "\n" in text.strip():
                return f"{type(error).__name__}: {text[:300]!r} is not one line of advice\n{traceback.format_exc(-6)}"
            self.outcomes["refused"] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return "".join(traceback.format_exception(error, limit=-8, chain=False))
        else:
            self.outcomes["read"] += 1
        return None


def fuzz(name: str, numbers: range, seed: int, root: Path, progress: object = None, keep: Path | None = None) -> Bench:
    """Reads the mutated files of some numbers. Findings are in `bench.findings`: number -> text."""
    bench = Bench(name, root, seed)
    bench.findings = {}
    for number in numbers:
        if progress is not None:
            progress.value = number
        if text := bench.one(number):
            bench.findings[number] = text
        if keep is not None:
            draw = random.Random(f"{seed} {name} {number}")
            target = draw.choice(bench.targets)
            wrap = bench.reader.wrap.get(target.name)
            data = bench.originals[target]
            keep.mkdir(parents=True, exist_ok=True)
            data = mutated(data, draw) if wrap is None else wrap(data, mutated, draw)
            (keep / f"{number}-{target.name}").write_bytes(data)
    return bench


def _work(name: str, first: int, files: int, seed: int, progress: object, queue: object, keep: Path | None) -> None:
    quiet()
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        bench = fuzz(name, range(first, first + files), seed, Path(folder, "x/y"), progress, keep)
        queue.put((dict(bench.outcomes), bench.findings))


def quiet() -> None:
    """No progress bars and warnings of libraries."""
    import logging

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def watched(name: str, first: int, files: int, seed: int, keep: Path | None) -> tuple[Counter[str], dict[int, str]]:
    """`fuzz` in processes of its own, which are replaced if they crash or hang."""
    context = multiprocessing.get_context("spawn")
    outcomes: Counter[str] = Counter()
    findings: dict[int, str] = {}
    end = first + files
    while first < end:
        progress, queue = context.Value("q", -1), context.SimpleQueue()
        count = min(end - first, 2_000)
        worker = context.Process(target=_work, args=(name, first, count, seed, progress, queue, keep))
        worker.start()
        last, since = -1, time.monotonic()
        while worker.is_alive() and queue.empty():
            worker.join(0.5)
            if progress.value != last:
                last, since = progress.value, time.monotonic()
            if time.monotonic() - since > 6 * SECONDS:
                worker.kill()
        if queue.empty():
            worker.join()
            if last < 0:
                raise RuntimeError(f"{name}: its valid input is not read (exit status {worker.exitcode})")
            findings[last] = f"ended the process or hung (exit status {worker.exitcode})"
            outcomes["read"] += last - first  # or refused: not counted
            first = last + 1
            continue
        some, found = queue.get()
        worker.join()
        outcomes.update(some)
        findings.update(found)
        first += count
    return outcomes, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="of all readers together, by their weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(READERS), help="a reader, repeatable")
    parser.add_argument("--first", type=int, default=0, help="number of the first file of each reader")
    parser.add_argument("--keep", type=Path, help="folder for the mutated files")
    parser.add_argument("--json", type=Path, help="file for the numbers and findings")
    given = parser.parse_args()
    names = given.only or list(READERS)
    weights = {name: READERS[name].weight for name in names}
    report = {}
    for name in names:
        count = max(1, round(given.files * weights[name] / sum(weights.values())))
        start = time.monotonic()
        outcomes, findings = watched(name, given.first, count, given.seed, given.keep)
        report[name] = {"files": count, "outcomes": dict(outcomes), "findings": findings}
        seconds = time.monotonic() - start
        print(f"{name}: {count:,} files, {dict(outcomes)}, {len(findings)} findings, {seconds:.0f} s", flush=True)
        seen: Counter[str] = Counter()
        for number, text in findings.items():
            last = text.strip().splitlines()[-1][:120]
            seen[last] += 1
            if seen[last] <= 2:
                print(f"  {number}: {text}", flush=True)
        if given.json is not None:
            given.json.write_text(json.dumps(report, indent=1))
    total = sum(one["files"] for one in report.values())
    wrong = sum(len(one["findings"]) for one in report.values())
    print(f"{total:,} files, {wrong:,} findings")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

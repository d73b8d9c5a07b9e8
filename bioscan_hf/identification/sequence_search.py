"""Sequence search with vsearch (global alignment and SINTAX) and BLAST+, in a temporary folder.

BLAST is a baseline of BarcodeBERT (https://arxiv.org/abs/2311.02401): a query gets the taxon of its best hit.
`neighbour_labels` and `metrics.accuracy` turn a result into the metrics of a kNN probe of embeddings.
Shape letters: N = references, M = queries, k = neighbours.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.csv as pc
from numpy.typing import ArrayLike, NDArray

from ..metrics import IGNORE
from ..search.vectors import Ids, first_of_groups

_BLAST = "BLAST+ (apt install ncbi-blast+, or conda install -c bioconda blast)"

#: Program -> package to install.
PACKAGES = {
    "vsearch": "vsearch (apt install vsearch, or conda install -c bioconda vsearch)",
    "blastn": _BLAST,
    "makeblastdb": _BLAST,
}

TOOLS = ("vsearch", "blast")
BLAST_TASKS = ("megablast", "blastn", "dc-megablast")

#: Letters of the ranks in SINTAX headers, highest first. Only their order matters here.
SINTAX_LETTERS = "dkpcofgst"

#: Fewest references that BLAST keeps for a query. With fewer, it would choose among equal ones itself.
BLAST_TARGETS = 100

#: vsearch compares words of 8 nucleotides. A barcode without one would match any other with identity 1.
WORD = re.compile("[ACGT]{8}")

_UNIFORM = str.maketrans("U", "T", "-")
_ALLOWED = frozenset("ACGTNRYSWKMBDHV")


@dataclass(frozen=True)
class SearchResult:
    """Nearest references of each query by alignment.

    Attributes:
        neighbours: Rows of the references (M, k), nearest first; -1 where there are no more hits.
        identities: Share of identical columns of the alignment (M, k), in [0, 1]; NaN where there is no hit. The
            alignment is global in vsearch (end gaps do not count), and local in BLAST.
        tool: "vsearch" or "blast".
        version: Version of the program, such as "2.22.1".
        command: Command line of the search.
        seconds: Wall time, including files and index.
    """

    neighbours: Ids
    identities: NDArray[np.float32]
    tool: str
    version: str
    command: str
    seconds: float


@dataclass(frozen=True)
class SintaxResult:
    """Taxa of each query by SINTAX.

    Attributes:
        taxa: Rank -> class ids (M,); -1 where there is none.
        confidences: Rank -> share of the bootstrap samples (M,), in [0, 1]; 0 where there is no taxon.
        version, command, seconds: As in `SearchResult`.
    """

    taxa: dict[str, Ids]
    confidences: dict[str, NDArray[np.float32]]
    version: str
    command: str
    seconds: float


def search_nearest(
    references: Sequence[str],
    queries: Sequence[str],
    *,
    tool: str = "vsearch",
    k: int = 1,
    threads: int = 1,
    candidates: int = 8,
    min_identity: float = 0.0,
    both_strands: bool = False,
    task: str = "megablast",
) -> SearchResult:
    """Finds the nearest references of each query by alignment.

    vsearch ranks by identity among the `candidates` references that share the most words of 8 nucleotides with the
    query; BLAST ranks by score. Equally good references are in row order. The result does not depend on `threads`.

    Barcodes are converted as by `uniform_barcodes` (in vsearch, N equals any letter). One without 8 nucleotides in a
    row, such as an empty one, has no hits and is not found.

    Args:
        tool: "vsearch" or "blast".
        candidates: vsearch: references aligned with each query. More are slower and slightly more accurate.
        min_identity: Smallest identity of a hit, in [0, 1].
        both_strands: Also searches the reverse complement of a query. Barcodes normally have a known strand.
        task: BLAST: "megablast" (published), "dc-megablast" or "blastn", increasingly sensitive and slow.

    Raises:
        ValueError: for an option out of range, no reference of 8 nucleotides, and a barcode that is missing or has
            other characters (the rows are named).
        FileNotFoundError: if the program is not installed; the error names the package.
        RuntimeError: if the program fails, with its message.
    """
    for option, value, choices in (("tool", tool, TOOLS), ("task", task, BLAST_TASKS)):
        if value not in choices:
            raise ValueError(f"{option} is {value!r}; give one of {', '.join(choices)}.")
    _check_positive(k=k, threads=threads, candidates=candidates)
    if not 0 <= min_identity <= 1:
        raise ValueError(f"min_identity is {min_identity}; give a share from 0 to 1.")
    start = time.perf_counter()
    _check_installed(*(("vsearch",) if tool == "vsearch" else ("makeblastdb", "blastn")))
    library, wanted = uniform_barcodes(references, "reference"), uniform_barcodes(queries, "query")
    with tempfile.TemporaryDirectory(prefix="search-") as name:
        folder = Path(name)
        _write_fasta(folder / "references.fasta", library, {})
        if tool == "vsearch":
            command = _vsearch_command(max(candidates, k), threads, min_identity, both_strands)
        else:
            _run(["makeblastdb", "-in", "references.fasta", "-dbtype", "nucl", "-out", "index"], folder)
            command = _blast_command(task, max(BLAST_TARGETS, k), threads, both_strands)
        _run_queries(command, folder, wanted, "hits.tsv")
        hits = _read_hits(folder / "hits.tsv", by_score=tool == "blast", min_identity=min_identity)
    neighbours, identities = _best(*hits, len(wanted), k)
    version = _version(["vsearch", "--version"] if tool == "vsearch" else ["blastn", "-version"])
    return SearchResult(neighbours, identities, tool, version, shlex.join(command), time.perf_counter() - start)


def neighbour_labels(neighbours: ArrayLike, reference_labels: ArrayLike) -> Ids:
    """Label of the nearest labelled neighbour of each query (M,); -1, which metrics count as wrong, if none.

    Example:
        >>> neighbour_labels([[1, 0], [-1, -1]], [7, -1]).tolist()
        [7, -1]
    """
    rows, labels = np.asarray(neighbours), np.asarray(reference_labels)
    if rows.ndim != 2 or labels.ndim != 1 or (rows.size and rows.max() >= len(labels)):
        raise ValueError(
            f"neighbours (M, k) must be rows of reference_labels (N,); got {rows.shape} and {labels.shape}, and the "
            f"highest row is {rows.max() if rows.size else None}."
        )
    found = np.append(labels, IGNORE)[rows].astype(np.int64)  # row -1 is the one appended
    first = (found != IGNORE).argmax(1)
    return found[np.arange(len(found)), first]


def sintax(
    references: Sequence[str],
    taxa: Mapping[str, ArrayLike],
    queries: Sequence[str],
    *,
    threads: int = 1,
    both_strands: bool = False,
    seed: int = 1,
) -> SintaxResult:
    """Assigns taxa with bootstrap confidences to queries, with SINTAX of vsearch.

    For each of 100 random samples of the words of a query, the reference that shares most of them votes
    (https://doi.org/10.1101/074161). Barcodes are treated as in `search_nearest`.

    Args:
        taxa: Rank -> class ids (N,), the highest rank first, -1 where unknown; 9 ranks at most.
        threads: With more than 1 the result is not reproducible.
        seed: Of the samples, 1 or more.

    Raises:
        ValueError: for ranks that do not fit the references; FileNotFoundError and RuntimeError as `search_nearest`.
    """
    start = time.perf_counter()
    _check_positive(threads=threads, seed=seed)
    labels = {rank: np.asarray(ids) for rank, ids in taxa.items()}
    shapes = {rank: ids.shape for rank, ids in labels.items() if ids.shape != (len(references),)}
    if shapes or not 1 <= len(labels) <= len(SINTAX_LETTERS):
        raise ValueError(
            f"taxa must have 1 to {len(SINTAX_LETTERS)} ranks, each with an id for each of the {len(references)} "
            f"references; got {len(labels)} ranks, and of other shapes {shapes or 'none'}."
        )
    _check_installed("vsearch")
    library, wanted = uniform_barcodes(references, "reference"), uniform_barcodes(queries, "query")
    letters = dict(zip(SINTAX_LETTERS, labels, strict=False))
    strands = "both" if both_strands else "plus"
    command = [
        *("vsearch", "--sintax", "queries.fasta", "--db", "references.fasta", "--tabbedout", "taxa.tsv"),
        *("--dbmask", "none", "--strand", strands, "--randseed", str(seed), "--threads", str(threads), "--quiet"),
    ]
    with tempfile.TemporaryDirectory(prefix="sintax-") as name:
        folder = Path(name)
        _write_fasta(folder / "references.fasta", library, {letter: labels[rank] for letter, rank in letters.items()})
        _run_queries(command, folder, wanted, "taxa.tsv")
        lines = (folder / "taxa.tsv").read_text(encoding="ascii").splitlines()
    found = {rank: np.full(len(wanted), IGNORE, np.int64) for rank in labels}
    confidences = {rank: np.zeros(len(wanted), np.float32) for rank in labels}
    for line in lines:
        query, names = line.split("\t")[:2]
        for letter, taxon, confidence in re.findall(r"(\w):(\d+)\(([\d.]+)\)", names):
            found[letters[letter]][int(query)] = int(taxon)
            confidences[letters[letter]][int(query)] = float(confidence)
    version = _version(["vsearch", "--version"])
    return SintaxResult(found, confidences, version, shlex.join(command), time.perf_counter() - start)


def uniform_barcodes(barcodes: Sequence[str], what: str) -> list[str]:
    """Barcodes in upper case, without gaps ("-"), with U as T; IUPAC codes stay, unlike in `clean_barcodes`.

    Args:
        what: What an error calls them: "reference" or "query".

    Raises:
        ValueError: if a barcode is missing (None) or has characters other than nucleotides, IUPAC codes and gaps, and
            if no reference has 8 nucleotides in a row.
    """
    if missing := [row for row, barcode in enumerate(barcodes) if barcode is None]:
        raise ValueError(f"{what} barcodes are missing: {len(missing)}, the first in row {missing[0]}. Give ''.")
    uniform = [barcode.upper().translate(_UNIFORM) for barcode in barcodes]
    if wrong := [row for row, barcode in enumerate(uniform) if not _ALLOWED.issuperset(barcode)]:
        others = "".join(sorted(set(uniform[wrong[0]]) - _ALLOWED))
        raise ValueError(
            f"{what} barcodes have characters that are not nucleotides; the first is row {wrong[0]} with {others!r} "
            f"({len(wrong)} in total). Allowed are ACGTU, N, the IUPAC codes and '-'."
        )
    if what == "reference" and not any(map(WORD.search, uniform)):
        raise ValueError(
            f"None of the {len(uniform)} references has 8 nucleotides in a row, so there is nothing to search."
        )
    return uniform


def _vsearch_command(candidates: int, threads: int, min_identity: float, both_strands: bool) -> list[str]:
    # With the threshold 0 every candidate is accepted, so `maxaccepts` is the number aligned. Nothing is masked: runs
    # of A and T are part of a barcode.
    return [
        *("vsearch", "--usearch_global", "queries.fasta", "--db", "references.fasta"),
        *("--id", str(min_identity), "--strand", "both" if both_strands else "plus"),
        *("--maxaccepts", str(candidates), "--maxrejects", "64", "--threads", str(threads)),
        *("--qmask", "none", "--dbmask", "none", "--minseqlength", "1"),
        *("--userout", "hits.tsv", "--userfields", "query+target+ids+pairs+gaps", "--quiet"),
    ]


def _blast_command(task: str, targets: int, threads: int, both_strands: bool) -> list[str]:
    return [
        *("blastn", "-task", task, "-query", "queries.fasta", "-db", "index", "-out", "hits.tsv"),
        *("-outfmt", "6 qseqid sseqid nident length score", "-max_target_seqs", str(targets), "-max_hsps", "1"),
        *("-strand", "both" if both_strands else "plus", "-num_threads", str(threads)),
    ]


def _read_hits(
    path: Path, by_score: bool, min_identity: float
) -> tuple[Ids, Ids, NDArray[np.float64], NDArray[np.float64]]:
    """Queries, references, identities and ranking values of all hits."""
    if path.stat().st_size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
    options = pc.ReadOptions(column_names=["query", "reference", "identical", "columns", "last"])
    table = pc.read_csv(path, read_options=options, parse_options=pc.ParseOptions(delimiter="\t"))
    queries, references, identical, columns, last = (column.to_numpy() for column in table.columns)
    identity = identical / (columns if by_score else np.maximum(columns + last, 1))  # vsearch counts gaps separately
    keep = identity >= min_identity
    rank = last.astype(np.float64) if by_score else identity
    return queries[keep], references[keep], identity[keep], rank[keep]


def _best(
    queries: Ids, references: Ids, identities: NDArray[np.float64], rank: NDArray[np.float64], rows: int, k: int
) -> tuple[Ids, NDArray[np.float32]]:
    """The first `k` hits of each query (rows, k), by rank, then by the row of the reference."""
    order = np.lexsort((references, -rank, queries))
    queries, shares = queries[order], identities[order].astype(np.float32)
    return first_of_groups(queries, references[order], rows, k, -1), first_of_groups(queries, shares, rows, k, np.nan)


def _write_fasta(path: Path, barcodes: Sequence[str], taxa: Mapping[str, Ids]) -> None:
    """Writes barcodes that have a word, named by their rows, with taxa (letter -> ids) in the form of SINTAX."""
    with path.open("w", encoding="ascii") as file:
        for row, barcode in enumerate(barcodes):
            if WORD.search(barcode):
                known = ",".join(f"{letter}:{ids[row]}" for letter, ids in taxa.items() if ids[row] != IGNORE)
                file.write(f">{row};tax={known};\n{barcode}\n" if taxa else f">{row}\n{barcode}\n")


def _check_positive(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; give a positive number.")


def _check_installed(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise FileNotFoundError(f"The program {program!r} is not on the PATH. Install {PACKAGES[program]}.")


def _run_queries(command: Sequence[str], folder: Path, queries: Sequence[str], output: str) -> None:
    """Runs a command on `queries.fasta`. Without a query that has a word, `output` is empty."""
    _write_fasta(folder / "queries.fasta", queries, {})
    if any(map(WORD.search, queries)):
        _run(command, folder)
    else:
        (folder / output).touch()  # the programs reject an empty file of queries


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed ({done.returncode}): {(done.stderr or done.stdout)[-2000:]}")


def _version(command: Sequence[str]) -> str:
    """Version in the output of a command, such as "2.22.1" or "2.12.0+"."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+[.\d]*\+?", done.stderr + done.stdout)
    if found is None:
        raise RuntimeError(f"{shlex.join(command)} prints no version: {done.stderr + done.stdout}")
    return found[0]

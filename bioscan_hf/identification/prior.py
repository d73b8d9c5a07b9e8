"""What is known of COI barcodes, for libraries that teach too little by themselves: the region, and confidences.

A few references, or some of many lengths, do not show where reads begin; one reference for each species does not show
how alike two barcodes of a species are, and ten species not how far a new one is. `benchmarks/learn_prior.py` fitted
the region to half of the families of public records of insects, made libraries of 8 to 800 of their species, and named
the references as if they were reads; features are kept, no sequences. `bench_small_libraries.py` measures what it
gives for the other families.
Shape letters: n = references asked about, F = features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ..barcodes import complement
from ..files import read_json
from ..schema import RANKS
from .alignment import edit_distance, unknown_letters
from .calibration import LEVELS, Evidence
from .learning import Asked
from .region import LEAST_SCORE, Region
from .similarity import References

#: Features of `Evidence.known` that are of levels: lead, support and backing of each.
_OF_LEVELS = 3 * len(LEVELS)

#: What is said of a library whose confidences rest on it.
FILLED = "what these references do not teach about confidences is taken from COI barcodes of insects"

FILES = Path(__file__).parent / "coi"

#: Files there, beside a folder of `AlignedBarcodeModel`.
PRIOR, FACTS = "prior.safetensors", "facts.json"

#: References that are compared with the consensus, and the largest share of letters in which most of them differ.
SAMPLE, LARGEST_DISTANCE = 60, 0.38

#: Number of references up to which each of them is placed on both strands.
FEW = 2000


def prior_of(references: References) -> Asked | None:
    """The prior for references of COI with a fitted region; None for others, whose features are not alike."""
    if references.region is None or references.region.encoder is not None:
        return None
    return read_prior() if is_coi(references.sequences) else None


def coi_region(sequences: Sequence[str]) -> Region | None:
    """The region of COI, if most of the sequences lie in it."""
    if not is_coi(sequences):
        return None
    region = Region(FILES)
    sample = [sequences[i] for i in np.linspace(0, len(sequences) - 1, min(len(sequences), 2000)).astype(int)]
    return region if (region.place(sample).score >= LEAST_SCORE).mean() > 0.5 else None


def is_coi(sequences: Sequence[str]) -> bool:
    """Whether most of a sample of sequences are of the gene, by the consensus of insects."""
    sample = _sample(sequences)
    return 2 * sum(map(_near, sample)) > len(sample)


def on_other_strand(sequences: Sequence[str]) -> NDArray[np.bool_]:
    """Which references (n,) are reverse complements of COI; none of other genes.

    In a library of more than `FEW` references whose sample has none, single ones are left to the audit.
    """
    turned = np.zeros(len(sequences), np.bool_)
    sample = _sample(sequences)
    others = [one for one in sample if not _near(one)]
    back = sum(_near(complement(one)) for one in others)
    if 2 * (len(sample) - len(others) + back) <= len(sample) or not back and len(sequences) > FEW:
        return turned
    region = Region(FILES)
    rows = np.flatnonzero(region.place(sequences).score < LEAST_SCORE)
    turned[rows] = region.place([complement(sequences[row]) for row in rows.tolist()]).score >= LEAST_SCORE
    return turned


def _sample(sequences: Sequence[str]) -> list[str]:
    rows = np.linspace(0, len(sequences) - 1, min(len(sequences), SAMPLE)).astype(int)
    return [sequences[row] for row in np.unique(rows).tolist()]


@cache
def _consensus() -> str:
    return str(read_json(FILES / FACTS)["consensus"])


def _near(sequence: str) -> bool:
    """Whether a sequence is as near to the consensus of insects as one of the gene."""
    consensus = _consensus()
    bound = int(LARGEST_DISTANCE * min(len(sequence), len(consensus))) + 1
    return edit_distance(sequence, consensus, bound, plain=not unknown_letters(sequence + consensus)) < bound


def read_prior() -> Asked:
    """References of other libraries, with the features of `evidence_of`."""
    found = load_file(FILES / PRIOR)
    common = found["known"][:, : found["known"].shape[1] - _OF_LEVELS]
    ranks = {rank: np.column_stack([common, found["own"][:, place]]) for place, rank in enumerate(RANKS)}
    evidence = Evidence(
        found["known"].astype(np.float64), {rank: part.astype(np.float64) for rank, part in ranks.items()}
    )
    right = {rank: found["right"][:, place].astype(np.int64) for place, rank in enumerate(RANKS)}
    level, families = found["level"].astype(np.int64), found["families"].astype(np.int64)
    return Asked(evidence, level, right, np.ones(len(level)), evidence.known[:, 0], None, families)


def write_prior(asked: Asked) -> None:
    """Writes references for `read_prior`."""
    assert asked.families is not None
    shared = asked.evidence.known.shape[1] - _OF_LEVELS
    own = np.stack([asked.evidence.ranks[rank][:, shared:] for rank in RANKS], axis=1)
    tensors: dict[str, NDArray[Any]] = {
        "known": asked.evidence.known.astype(np.float32),
        "own": np.ascontiguousarray(own, np.float32),
        "level": asked.level.astype(np.uint8),
        "right": np.stack([asked.right[rank] for rank in RANKS], axis=1).astype(np.int8),
        "families": asked.families.astype(np.uint16),
    }
    save_file(tensors, FILES / PRIOR)

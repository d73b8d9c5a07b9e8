"""Names of reads from their matches, and the evidence for them.

Shape letters: n = reads, N = references, C = candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .calibration import LEVELS, Evidence
from .similarity import CANDIDATES, Matches, lower_bound

#: Identities that differ by less are equal.
EQUAL = 1e-6

#: Largest lead that counts, and candidates that vote.
LARGEST_LEAD, VOTERS = 0.15, 10


@dataclass
class Names:
    """Names of n reads by their nearest named candidates.

    Attributes:
        codes: Rank -> code of the taxon (n,), -1 if no candidate has a name.
        place: Rank -> position of the nearest candidate of that taxon (n,).
        lead: Rank -> how much its identity exceeds that of the best other taxon (n,).
        second: Rank -> code of the best other taxon (n,), -1 if there is none.
        tied: Rank -> number of taxa that are equally near (n,).
        votes: Rank -> share of this taxon in the records that are equally near (n,); 1 for a read without a name.
    """

    codes: dict[str, NDArray[np.int64]]
    place: dict[str, NDArray[np.int64]]
    lead: dict[str, NDArray[np.float64]]
    second: dict[str, NDArray[np.int64]]
    tied: dict[str, NDArray[np.int64]]
    votes: dict[str, NDArray[np.float64]]


def names_of(
    found: Matches, codes: Mapping[str, NDArray[np.int64]], count: NDArray[np.int64], ranks: Sequence[str]
) -> Names:
    """The taxon of the nearest named candidate at each rank, within the taxon of the rank above.

    Equally near candidates vote with their numbers of records, so that the order of references changes nothing.

    Args:
        codes: Rank -> code of the taxon of each reference (N,), -1 where it has no name.
        count: Records of each reference (N,).
        ranks: Highest first.
    """
    few = np.asarray((found.rows[:, CANDIDATES:] < 0).all(1))
    if found.rows.shape[1] <= CANDIDATES or not few.any():
        return _names_of(found.rows, found.identity, found.overlap, codes, count, ranks)
    parts = []
    for some, width in ((few, CANDIDATES), (~few, found.rows.shape[1])):
        rows, identity = found.rows[some, :width], found.identity[some, :width]
        parts.append((some, _names_of(rows, identity, found.overlap[some, :width], codes, count, ranks)))
    names = Names({}, {}, {}, {}, {}, {})
    for field in fields(Names):
        for rank in ranks:
            joined = np.empty(len(few), getattr(parts[0][1], field.name)[rank].dtype)
            for some, part in parts:
                joined[some] = getattr(part, field.name)[rank]
            getattr(names, field.name)[rank] = joined
    return names


def _names_of(
    found_rows: NDArray[np.int64],
    identity: NDArray[np.float32],
    overlaps: NDArray[np.int32],
    codes: Mapping[str, NDArray[np.int64]],
    count: NDArray[np.int64],
    ranks: Sequence[str],
) -> Names:
    n, c = found_rows.shape
    names = Names({}, {}, {}, {}, {}, {})
    there = found_rows >= 0
    rows = found_rows.clip(0)
    allowed = there.copy()
    order = np.arange(c)[None].repeat(n, 0)
    for rank in ranks:
        own = np.where(there, codes[rank][rows], -1)
        usable = allowed & (own >= 0)
        first = np.where(usable, order, c).min(1)
        has = first < c
        at = first.clip(max=c - 1)[:, None]
        best = np.take_along_axis(identity, at, 1)
        overlap = np.take_along_axis(overlaps, at, 1)
        ties = usable & (np.abs(identity - best) < EQUAL) & (overlaps >= 0.9 * overlap)
        ties |= usable & (order == at)
        chosen, tied, names.votes[rank] = _voted(own, ties, np.where(there, count[rows], 0))
        chosen[~has] = -1
        same = usable & (own == chosen[:, None])
        other = there & (own >= 0) & (own != chosen[:, None])
        runner = np.where(other, identity, -1)
        second = runner.argmax(1)
        behind = np.take_along_axis(runner, second[:, None], 1)[:, 0]
        nearest = np.where(same, identity, -1).max(1)
        floor = np.where(there, identity, 1).min(1)  # others are at least as far as the farthest candidate
        lead = nearest - np.where(behind >= 0, behind, floor)
        names.codes[rank], names.tied[rank] = chosen, np.where(has, tied, 0)
        names.place[rank] = np.where(same, order, c).min(1).clip(max=c - 1)
        names.lead[rank] = np.clip(lead, -LARGEST_LEAD, LARGEST_LEAD)
        names.second[rank] = np.where(behind >= 0, np.take_along_axis(own, second[:, None], 1)[:, 0], -1)
        allowed &= (own == chosen[:, None]) | (own < 0) | ~has[:, None]
    return names


def _voted(
    own: NDArray[np.int64], ties: NDArray[np.bool_], count: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The taxon with most records among tied candidates (n,), the first by name if equal.

    Also the number of tied taxa, and the share of its records in theirs.
    """
    several = ties.sum(1) > 1
    if not several.all():
        chosen = np.asarray(np.where(ties, own, -1).max(1))
        tied, share = np.asarray(ties.any(1)).astype(np.int64), np.ones(len(own))
        if several.any():
            chosen[several], tied[several], share[several] = _voted(own[several], ties[several], count[several])
        return chosen, tied, share
    votes = np.zeros(own.shape, np.int64)
    for place in range(own.shape[1]):
        votes += np.where(
            ties & ties[:, place : place + 1] & (own == own[:, place : place + 1]), count[:, place : place + 1], 0
        )
    every = np.where(ties, count, 0).sum(1)
    votes[~ties] = -1
    most = votes.max(1, keepdims=True)
    chosen = np.where((votes == most) & ties, own, np.iinfo(np.int64).max).min(1)
    ordered = np.sort(np.where(ties, own, -1), axis=1)
    tied = (ordered[:, 0] >= 0).astype(np.int64) + ((ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] >= 0)).sum(1)
    share = np.where(every > 0, votes.max(1) / np.maximum(every, 1), 1.0)
    return np.where(chosen == np.iinfo(np.int64).max, -1, chosen), tied, share


def evidence_of(
    found: Matches,
    names: Names,
    codes: Mapping[str, NDArray[np.int64]],
    sizes: Mapping[str, NDArray[np.int64]],
    common: Sequence[NDArray[np.float64]],
    support: Mapping[str, NDArray[np.float64]],
    own: NDArray[np.int64] | None = None,
) -> Evidence:
    """Features of reads for the confidences. `backing` is the last one; calibrations of older libraries do not use it.

    Args:
        sizes: Rank -> references of each taxon.
        common: Features (n,) of the matches that count at every rank.
        support: Of `supports`; empty for matches that are not alignments.
        own: The reference that each read is, which is left out (n,), -1 for none.
    """
    nothing, one = np.zeros(len(found.rows)), np.ones(len(found.rows))
    leads = [names.lead.get(rank, nothing) for rank in LEVELS]
    leads += [support.get(rank, nothing) for rank in LEVELS] if support else []
    ranks, backing = {}, {}
    there = found.rows >= 0
    for rank, chosen in names.codes.items():
        taxa = np.where(there, codes[rank][found.rows.clip(0)], -1)[:, :VOTERS]
        named, mine = (taxa >= 0).sum(1), ((taxa == chosen[:, None]) & (taxa >= 0)).sum(1)
        size = sizes[rank][chosen] - (0 if own is None else (own >= 0) & (codes[rank][own.clip(0)] == chosen))
        backing[rank] = np.where(chosen >= 0, mine / np.clip(np.minimum(size, named), 1, None), 0.0).clip(max=1)
        nearest = np.take_along_axis(found.identity, names.place[rank][:, None], 1)[:, 0].astype(np.float64)
        alone = -np.log(np.maximum(names.tied[rank], 1))
        own_features = [names.lead[rank], mine / np.maximum(named, 1), nearest, alone]
        own_features += [support[rank]] if support else []
        ranks[rank] = np.stack([*common, *own_features, backing[rank]], axis=1)
    leads += [backing.get(rank, one) for rank in LEVELS]
    return Evidence(np.stack([*common, *leads], axis=1), ranks)


def features(found: Matches) -> list[NDArray[np.float64]]:
    """Features (n,) of the matches of reads: identity, few differences, length, certainty, cosine."""
    identity, overlap = found.identity[:, 0].astype(np.float64), found.overlap[:, 0]
    few = -np.log1p((1 - identity) * overlap)
    bound = lower_bound(identity.astype(np.float32), overlap)
    return [identity, few, np.log1p(overlap), bound, found.cosine.max(1).astype(np.float64)]

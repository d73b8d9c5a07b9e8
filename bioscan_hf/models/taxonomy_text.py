"""The taxonomy of a specimen as text for CLIBD's text encoder.

Uploaded beside the processor, so it imports nothing of this package; `RANKS` equals `schema.RANKS` (tested).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RANKS = ("phylum", "class", "order", "family", "subfamily", "genus", "species")

NOT_CLASSIFIED = "not_classified"

#: The five text templates that BioCLIP was trained on.
BIOCLIP_TEMPLATES = ("scientific", "common", "taxonomic", "scientific_common", "taxonomic_common")

#: "known" has the known names from order to species; "published" is CLIBD's text.
TEXT_TEMPLATES = ("known", "published", *BIOCLIP_TEMPLATES)

BIOCLIP_RANKS = ("phylum", "class", "order", "family", "genus", "species")

#: First word of BioCLIP's taxonomic texts. The dataset has no column for it.
KINGDOM = "Animalia"

#: Key of the common name in a taxonomy, beside the ranks.
COMMON_NAME = "common_name"


def taxonomy_text(
    taxonomy: Mapping[str, str | None],
    ranks: Sequence[str] = ("order", "family", "genus", "species"),
    missing: str | None = NOT_CLASSIFIED,
) -> str:
    """The taxonomy of one specimen as text: the names of `ranks`, separated by spaces.

    The defaults give the text of CLIBD (https://arxiv.org/abs/2405.17537): unknown ranks are "not_classified", and the
    genus occurs twice, because the name of a species includes it.

    Args:
        taxonomy: Rank -> name; None and "" are unknown.
        missing: Text for an unknown rank; None leaves the rank out.
    """
    for rank in ranks:
        if rank not in RANKS:
            raise ValueError(f"Unknown rank {rank!r}. The ranks are {', '.join(RANKS)}.")
    names = (taxonomy.get(rank) or missing for rank in ranks)
    return " ".join(name for name in names if name)


def clibd_text(taxonomy: Mapping[str, str | None], template: str = "known") -> str | None:
    """The taxonomy of a specimen as text; None if the template has no known name.

    - "known": "Diptera Sciaridae Claustropyga acanthostyla", order to species, with the genus once.
    - "published": "Diptera Sciaridae Claustropyga Claustropyga acanthostyla". Unknown ranks are "not_classified".
    - "scientific": "Claustropyga acanthostyla", the name at the lowest known rank.
    - "taxonomic": "Animalia Arthropoda Insecta Diptera Sciaridae Claustropyga acanthostyla", unknown ranks left out.
    - "common": the common name, or the scientific one.
    - "scientific_common", "taxonomic_common": "... with common name dark-winged fungus gnat", if known.

    Args:
        taxonomy: Rank -> name, None or "" if unknown; optionally "common_name" -> name.
        template: A name in `TEXT_TEMPLATES`.

    Raises:
        ValueError: for an unknown template, or a key that is neither a rank nor "common_name".
    """
    if template not in TEXT_TEMPLATES:
        raise ValueError(f"Unknown text template {template!r}. Choose one of {', '.join(TEXT_TEMPLATES)}.")
    unknown = [key for key in taxonomy if key not in RANKS and key != COMMON_NAME]
    if unknown:
        raise ValueError(f"Unknown rank {unknown[0]!r}. A taxonomy has {', '.join(RANKS)} and {COMMON_NAME}.")
    ranks = {rank: taxonomy.get(rank) for rank in RANKS}
    if template == "published":
        return taxonomy_text(ranks)
    known = {rank: name for rank, name in ranks.items() if name and name != NOT_CLASSIFIED}
    common = taxonomy.get(COMMON_NAME)
    if template == "common":
        return common or _lowest(known)
    text = _lowest(known) if template.startswith("scientific") else _lineage(known, template)
    return f"{text} with common name {common}" if text and common and template.endswith("_common") else text


def _lowest(known: Mapping[str, str]) -> str | None:
    return next((known[rank] for rank in reversed(RANKS) if rank in known), None)


def _lineage(known: Mapping[str, str], template: str) -> str | None:
    """The known names from the highest rank on, without a genus that the species includes."""
    ranks = ("order", "family", "genus", "species") if template == "known" else BIOCLIP_RANKS
    names = [known[rank] for rank in ranks if rank in known]
    if "genus" in known and known.get("species", "").startswith(known["genus"] + " "):
        names.remove(known["genus"])
    return " ".join(names if template == "known" else [KINGDOM, *names]) if names else None

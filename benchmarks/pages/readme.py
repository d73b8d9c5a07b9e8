"""README's table of the three benchmarks."""

from __future__ import annotations

from bioscan_hf.cards import table

from .results import Blocks, percent, results

#: Published numbers on BIOSCAN-5M, in percent; docs/guides/reproduce.md has them too.
PUBLISHED = {"species": 99.28, "genus": 47.03, "dino": 21.4, "barcodebert": 45.1, "seen": 51.2, "unseen": 12.8}


def benchmarks() -> str:
    """One row per benchmark: published, this package on the same data (not run), and what was measured instead."""
    coi, training = results("real_coi")["metrics"], results("gpu_run")["metrics"]["training"]["rows"]
    best = coi["aligned, whole profile"]
    bert = training["BarcodeBERT, masked k-mers, then contrast of species, mean over reading frames"]
    clusters = results("real_clustering")["metrics"]["aligned, 512 principal components"]
    retrieval = results("clibd_simulated")["metrics"]
    pair, alone = (retrieval[name]["image->dna"]["macro"] for name in ("trained, 1 process", "no alignment"))

    def both(values: dict[str, dict[str, float]]) -> str:
        return f"{percent(values['seen']['species'])} / {percent(values['unseen']['species'])}"

    def coi_of(question: str) -> str:
        return percent(best[question]["micro_accuracy"])

    rows = [
        (
            "I. Barcodes: species / genus of new species",
            f"{PUBLISHED['species']:.1f} / {PUBLISHED['genus']:.1f} (BarcodeBERT)",
            "not run",
            f"real BOLD barcodes: {coi_of('species of test')} / {coi_of('genus of test_unseen')} (aligned barcodes, "
            f"no GPU); {percent(bert['species of test'])} / {percent(bert['genus of test_unseen'])} "
            "(BarcodeBERT, 4 minutes on one H200)",
        ),
        (
            "II. Zero-shot clusters: AMI of species",
            f"{PUBLISHED['dino']} photos, {PUBLISHED['barcodebert']} barcodes (BarcodeBERT)",
            "not run",
            f"real BOLD barcodes: {percent(clusters['Ward, number of species']['ami']['species'])} (aligned "
            "barcodes); no photos",
        ),
        (
            "III. CLIBD: species of photos by barcodes, seen / unseen",
            f"{PUBLISHED['seen']} / {PUBLISHED['unseen']}",
            "not run",
            f"made-up photos and barcodes, small model: {both(pair)} (no alignment: {both(alone)})",
        ),
    ]
    return table(("benchmark (%)", "published", "this package on BIOSCAN-5M", "measured instead, on other data"), rows)


BLOCKS: Blocks = {"benchmarks": benchmarks}

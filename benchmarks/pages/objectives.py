"""Objectives of pretraining on real barcodes, and the cost of a masked autoencoder."""

from __future__ import annotations

from bioscan_hf.cards import table

from .results import NOT_YET, Blocks, between, claim, exists, percent, results


def objectives() -> str:
    """One row per objective: accuracies over all seeds, with 95 % intervals over species."""
    if not exists("objectives"):
        return NOT_YET
    questions, means = ("species of test", "genus of test_unseen"), ("micro", "macro")
    rows = [
        (
            name,
            *(
                f"{percent(found[question][f'{mean}_accuracy'])} "
                f"({between(found[question][f'{mean}_accuracy_interval'])})"
                for question in questions
                for mean in means
            ),
        )
        for name, found in results("objectives")["metrics"].items()
    ]
    return table(("", *(f"{question}, {mean}" for question in questions for mean in means)), rows)


def mae_step() -> str:
    """One row per way: seconds of CPU of a step, and their share of a step of masked k-mers."""
    if not exists("mae_step"):
        return NOT_YET
    metrics = results("mae_step")["metrics"]
    plain = next(iter(metrics["ways"].values()))["seconds_cpu"]
    rows = [
        (way, f"{values['seconds_cpu']:.2f}", percent(values["seconds_cpu"] / plain))
        for way, values in metrics["ways"].items()
    ]
    rows.append(("its encoder alone", "-", percent(metrics["encoder_share_of_masked_step"])))
    return table(("", "CPU seconds", "% of a step of masked k-mers"), rows)


BLOCKS: Blocks = {
    "objectives": objectives,
    "objectives_claim": lambda: claim("objectives"),
    "mae_step": mae_step,
}

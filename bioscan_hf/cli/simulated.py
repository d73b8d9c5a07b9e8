"""Commands on simulated data: demo and simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .command import Output, Result, command
from .options import Force, Seed, beside, shell

PANEL = "Try it"


@command(PANEL, "bioscan-hf demo --output demo")
def demo(
    output: Annotated[Path, Option(help="New folder.")] = Path("demo"),
    specimens: Annotated[int, Option(help="Size of the simulated release.")] = 3000,
    steps: Annotated[int, Option(help="Training steps, of BarcodeBERT and of CLIBD each.")] = 80,
    seed: Seed = 0,
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Run everything on a simulated release and write a report."""
    from .demo import run_demo

    results = run_demo(output, specimens=specimens, steps=steps, seed=seed, force=force, say=out.say)
    out.wrote(output / "results.json", output / "report.html")
    return results


@command(PANEL, "bioscan-hf simulate release --specimens 2000 --seed 0")
def simulate(
    output: Annotated[Path, Argument(help="New folder.")],
    specimens: Annotated[int, Option(help="Number of specimens.")] = 2000,
    seed: Seed = 0,
    folders: Annotated[bool, Option("--folders", help="Write photos into folders instead of zips.")] = False,
    metadata_only: Annotated[
        bool, Option("--metadata-only", help="Write no photos: millions of specimens in little memory.")
    ] = False,
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Write a small simulated release in the published layout."""
    from ..simulate.release import simulate_release

    with out.progress() as progress:
        root = simulate_release(
            output, specimens, seed, folders=folders, force=force, metadata_only=metadata_only, progress=progress
        )
    out.wrote(root, next=shell("build", root, beside(root, "dataset")))
    return {"output": str(root), "specimens": specimens, "seed": seed}

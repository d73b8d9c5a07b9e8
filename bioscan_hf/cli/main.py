"""The program `bioscan-hf`. The topic modules register its commands, in the order of the overview."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from typer import Argument
from typer.completion import get_completion_script
from typer.main import get_command

from .command import Output, Result, app, command

# Importing a topic registers its commands.
# isort: off
from . import simulated, data, train, models, identify, evaluate, cluster

# isort: on

#: Topics in the order of the overview.
TOPICS = (simulated, data, train, models, identify, evaluate, cluster)


@command("This program", "bioscan-hf completion bash > ~/.local/share/bash-completion/completions/bioscan-hf")
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish", "powershell"], Argument(help="Shell.")], *, out: Output
) -> Result:
    """Print the script by which a shell completes these commands."""
    script = get_completion_script(prog_name="bioscan-hf", complete_var="_BIOSCAN_HF_COMPLETE", shell=shell)
    out.say(script)
    return {"shell": shell, "script": script}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command.

    Raises:
        SystemExit: unless the command succeeds, with a status of `command.EXIT_STATUSES`.
    """
    try:
        get_command(app)(args=None if arguments is None else list(arguments), prog_name="bioscan-hf")
    except SystemExit as stopped:
        if stopped.code:
            raise


if __name__ == "__main__":
    main()

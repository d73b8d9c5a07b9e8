"""The program `bioscan-hf`. The topic modules register its commands, in the order of the overview."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any, Literal

import typer
from typer import Argument
from typer.completion import get_completion_script
from typer.main import get_command

from .command import Output, Result, app, command

# Importing a topic registers its commands.
# isort: off
from . import simulated, data, train, models, identify, evaluate, cluster
from . import app as web

# isort: on

#: Topics in the order of the overview.
TOPICS = (simulated, data, train, models, identify, evaluate, cluster, web)


@command("This program", "bioscan-hf completion bash > ~/.local/share/bash-completion/completions/bioscan-hf")
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish", "powershell"], Argument(help="Shell.")], *, out: Output
) -> Result:
    """Print the completion script of a shell."""
    script = get_completion_script(prog_name="bioscan-hf", complete_var="_BIOSCAN_HF_COMPLETE", shell=shell)
    out.say(script)
    return {"shell": shell, "script": script}


#: Every wrong use of a command line; typer has no public name for it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

#: Words of typer's usage errors -> the same in plain English.
_WORDS = {"argument(s)": "arguments", "Value error, ": ""}


#: New objects after which a run of the program collects garbage. Imports of torch and pandas make many objects and no
#: garbage; with the default of 700, a tenth of the start is spent on looking.
_OBJECTS_BEFORE_COLLECTION = 100_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command.

    Raises:
        SystemExit: unless the command succeeds, with a status of `command.EXIT_STATUSES`.
    """
    given = None if arguments is None else list(arguments)
    if arguments is None:
        gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
        if isinstance(sys.stdout, TextIOWrapper):  # names may have letters that the screen has not
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = get_command(app).main(given, prog_name="bioscan-hf", standalone_mode=False)
    except SystemExit as stopped:
        status = stopped.code
    except typer.Abort:
        status = 130
    except _UsageError as error:
        status = _tell_wrong_use(error)
    if status:
        sys.exit(status)


def _tell_wrong_use(error: Any) -> int:
    """Prints a usage error in one line, or the help of a group without a command; returns the status."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        path = error.ctx.command_path if error.ctx else "bioscan-hf"
        text = " ".join(error.format_message().split()).removeprefix("Invalid value: ").rstrip(".")
        for theirs, ours in _WORDS.items():
            text = text.replace(theirs, ours)
        print(f"{path}: {text}{'' if text.endswith('?') else '.'} `{path} --help` shows the options.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()

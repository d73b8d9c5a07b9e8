"""How every command of `bioscan-hf` is registered, shows its output and ends.

Help and usage errors need typer and rich only: commands import other libraries inside their functions.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from .. import __version__
from ..progress import Progress, silent
from ..training.options.given import OptionError
from .bar import Bar

Result = dict[str, Any]

EXIT_STATUSES = (
    "Exit status: 0 done, 1 an error in the input, 2 wrong arguments, 3 a fault of this program (--debug shows the "
    "traceback), 130 interrupted (most commands resume when started again)."
)

#: Errors of the input: status 1. Any other exception is a fault of the program: status 3.
EXPECTED = (ValueError, KeyError, OSError, RuntimeError, ModuleNotFoundError)

app = typer.Typer(
    name="bioscan-hf",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=f"{EXIT_STATUSES}\n\n`bioscan-hf COMMAND --help` shows an example of each command.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"bioscan-hf {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Name specimens by DNA barcodes or photos; build, train and evaluate with BIOSCAN-5M."""


@dataclass
class Output:
    """What a command shows: lines and a progress bar, one JSON object, or nothing."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    bar: Bar | None = field(default=None, repr=False)

    @property
    def silent(self) -> bool:
        return self.json or self.quiet

    def say(self, *lines: str) -> None:
        """Prints lines, unless --json or --quiet is given."""
        if not self.silent:
            with nullcontext() if self.bar is None else self.bar.hidden():
                print(*lines, sep="\n", flush=True)

    def wrote(self, *paths: str | Path, next: str | Sequence[str] = ()) -> None:
        """Prints "Wrote X" for each path, and the next commands: the end of every command that writes."""
        commands = [next] if isinstance(next, str) else list(next)
        lines = [f"Next: {commands[0]}"] if len(commands) == 1 else ["Next:", *(f"  {one}" for one in commands)]
        self.say(*(f"Wrote {path}" for path in paths), *(lines if commands else ()))

    @contextmanager
    def progress(self, stage: str = "working", *, in_bytes: bool = False) -> Iterator[Progress]:
        """A progress callback that draws a bar on a terminal."""
        if self.silent:
            yield silent
            return
        within = self.bar is not None
        self.no_bar()
        self.bar = Bar(stage, in_bytes)
        try:
            yield self.bar.show
        finally:
            self.no_bar()
            self.bar = Bar() if within else None

    def no_bar(self) -> None:
        """Removes the bar, before another library draws its own."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def finish(self, result: Result) -> None:
        """Prints the result if --json is given."""
        if self.json and in_main_process():
            print(json.dumps(result, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))
        sys.stdout.flush()


_SHOWN = "Output"
_COMMON = {
    "json": (Option("--json", help="Print the result as JSON and nothing else.", rich_help_panel=_SHOWN), False),
    "quiet": (Option("--quiet", help="Print errors only.", rich_help_panel=_SHOWN), False),
    "debug": (Option("--debug", help="Show the traceback of an error.", rich_help_panel=_SHOWN), False),
}


def command(panel: str, *examples: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Registers a function as a command of `bioscan-hf`.

    The function takes `out`, an `Output`, besides its options, and returns its result for --json. Its docstring is
    the help text; --json, --quiet and --debug are added.

    Args:
        panel: Group of the command in the overview.
        examples: Command lines at the top of the help.
    """

    def register(function: Callable[..., Result]) -> Callable[..., Result]:
        own = inspect.signature(function, eval_str=True).parameters.values()
        common = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[bool, option]
            )
            for name, (option, default) in _COMMON.items()
        ]
        parameters = [*(parameter for parameter in own if parameter.name != "out"), *common]

        def run(**given: Any) -> None:
            out = Output(**{name: given.pop(name) for name in _COMMON})
            if out.json and out.quiet:
                raise typer.BadParameter("--json prints the result and --quiet prints nothing: give one of them.")

            def with_bar() -> Result:
                with out.progress(f"bioscan-hf {function.__name__}"):  # imports take seconds, too
                    return function(**given, out=out)

            run_command(function.__name__, out, with_bar)

        run.__dict__["__signature__"] = inspect.Signature(parameters)  # typer reads it
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        shown = "\n".join(f"  {example}" for example in examples)
        app.command(
            function.__name__,
            help=f"\b\nExample:\n{shown}\n\n{text}",
            short_help=text.partition("\n\n")[0],
            rich_help_panel=panel,
        )(run)
        return function

    return register


def run_command(name: str, out: Output, function: Callable[[], Result], one_line: bool = False) -> None:
    """Runs a command; turns exceptions into a message on standard error and an exit status.

    Where several processes run the command, the first of each machine prints. With `one_line`, the lines of messages,
    which are those of other libraries, are joined.
    """

    def stop(status: int, message: str) -> typer.Exit:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"bioscan-hf {name}: {' '.join(message.split()) if one_line else message}", file=sys.stderr)
        return typer.Exit(status)

    try:
        with warnings.catch_warnings():
            if not out.debug:
                hush_libraries()
            result = function()
        out.finish(result)
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        raise stop(130, "interrupted.") from None
    except typer.BadParameter:
        raise
    except Exception as error:
        if out.debug or hasattr(error, "__notes__"):  # raised after hours of training, with advice
            raise
        if isinstance(error, EXPECTED):
            status = 2 if isinstance(error, OptionError) else 1
            raise stop(status, _message(error)) from None
        what = " ".join(f"{type(error).__name__}: {error}".split())
        told = f"a fault of this program, {what}. --debug shows where; please report it."
        raise stop(3, told) from None


def _message(error: Exception) -> str:
    """The text of an error; of one of the system without its number."""
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename is not None:
        path = Path(error.filename)
        file = next((part for part in (path, *path.parents) if part.is_file()), path)
        return f"{str(file)!r} is a file, and a folder is needed. Give another name."
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror[0].lower()}{error.strerror[1:]}."
    return str(error.args[0] if isinstance(error, KeyError) else error)


def hush_libraries() -> None:
    """Hides the warnings of other libraries, which a user of a command cannot act on."""
    warnings.filterwarnings("ignore", module=r"(?!bioscan_hf)")
    for library in ("HF_HUB", "DATASETS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # read when they are imported


def in_main_process() -> bool:
    """Whether this is the only process, or the first of those that were launched."""
    return os.environ.get("RANK", "0") == "0"

"""Commands that pass all of their words to a program of `bioscan_hf.trainers`: those of train and evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any

import typer

from ..training.options.given import Given, check_names, read_given, trainer_options
from ..training.options.programs import GROUPS, Program, help_page
from .command import Output, Result, run_command
from .options import check_model, check_source

#: Added to the options of a program, which has options of its own for these names elsewhere.
OUTPUT = """
Output:
  --json                         Print the result as JSON and nothing else.
  --quiet                        Print errors only.
  --debug                        Show the traceback of an error."""


def add_programs(app: typer.Typer, group: str, run: Callable[[str, list[str], Output], Result]) -> None:
    """Adds the programs of a group as commands, which call `run` with name, words of the command line and output."""
    for name, program in GROUPS[group].items():
        examples = "\n".join(f"  {example}" for example in program.examples)
        app.command(
            name,
            help=f"\b\nExamples:\n{examples}\n\n{program.about}",
            short_help=program.about,
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )(_command(group, name, run))


def _command(
    group: str, name: str, run: Callable[[str, list[str], Output], Result]
) -> Callable[[typer.Context], None]:
    """The command of a program, which takes all words as they are."""

    def command(context: typer.Context) -> None:
        words, out = _output_of(context.args)
        if {"--help", "-h"} & set(words):
            print(help_page(name, group), OUTPUT, sep="\n")
            return
        run_command(f"{group} {name}", out, lambda: run(name, words, out), one_line=True)

    return command


def _output_of(words: Sequence[str]) -> tuple[list[str], Output]:
    """The words without --json, --quiet and --debug; `--debug VALUE` is an option of transformers' Trainer."""
    rest, out = [], Output()
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word in ("--json", "--quiet") or (word == "--debug" and after.startswith("--")):
            setattr(out, word[2:], True)
        else:
            rest.append(word)
    return rest, out


def parsed(program: Program, words: list[str]) -> tuple[Any, Any]:
    """The module of a program, and its options; wrong names and paths are refused before libraries are imported."""
    if "--help-all" not in words:
        given = read_given(words)
        if program.training is None:
            check_names(given, [program.options])
        else:
            check_names(given, [program.options, program.training], trainer_options)
        _check_paths(given)
    module = import_module(f"bioscan_hf.trainers.{program.module}")
    return module, module.parse(words)


def _check_paths(given: Given) -> None:
    """Raises FileNotFoundError for a dataset or a model that does not exist."""
    found = {name: value for name, value in given.values.items() if isinstance(value, str)}
    for word, after in zip(given.flags, [*given.flags[1:], ""], strict=True):
        name, sign, value = word.partition("=")
        if name.startswith("--"):
            found[name[2:].replace("-", "_")] = value if sign else after
    if "source" in found:
        check_source(found["source"])
    for name in ("model", "baseline", "image_encoder", "dna_encoder", "text_encoder"):
        if "/" in found.get(name, ""):
            check_model(found[name])


def printing_of(out: Output) -> AbstractContextManager[object]:
    """A context in which a program prints as it does, or nothing with --json and --quiet."""
    return redirect_stdout(StringIO()) if out.silent else nullcontext()

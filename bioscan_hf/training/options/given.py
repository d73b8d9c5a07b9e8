"""Options as they are given: flags, or a YAML file and flags that override it. Wrong names are found without torch."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any


class OptionError(ValueError):
    """An option that is unknown, missing, or has a value that it cannot have."""


@dataclass(frozen=True)
class Given:
    """Options of a command line: flags as in argparse, and the values of the YAML file, which flags override."""

    flags: list[str]
    values: dict[str, Any] = field(default_factory=dict)

    def names(self) -> Iterator[tuple[str, str]]:
        """Each option, as it is written and as the name of a field."""
        for name in self.values:
            yield name, name
        for word in self.flags:
            written = word.partition("=")[0]
            if word.startswith("--"):
                yield written, written[2:].replace("-", "_")
            elif re.match("-[A-Za-z]", word):
                yield written, written


def read_given(arguments: Sequence[str]) -> Given:
    """The options of a command line, whose first word may be a YAML file.

    Raises FileNotFoundError if the file does not exist, and OptionError if it does not hold options.
    """
    if not arguments or not arguments[0].endswith((".yaml", ".yml")):
        return Given(list(arguments))
    return Given(list(arguments[1:]), read_yaml(Path(arguments[0])))


def read_yaml(path: Path) -> dict[str, Any]:
    """Name -> value of a YAML file. All numbers, dates and booleans stay texts; null is None.

    YAML would read `no` as False, `1e-4` as a text and `012` as 10; the parser of the options knows their types.
    """
    import yaml

    class Texts(yaml.SafeLoader):
        """A loader that recognises null and merged keys only."""

        yaml_implicit_resolvers = {
            letter: [(tag, pattern) for tag, pattern in found if tag.endswith((":null", ":merge"))]
            for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r} with options.")
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Texts)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{str(path)!r} is not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise OptionError(f"{str(path)!r} holds no options. Write one `name: value` per line.")
    return {str(name): value for name, value in found.items()}


def check_names(given: Given, kinds: Sequence[type], more: Callable[[], Iterable[str]] = list) -> None:
    """Raises OptionError for an option of none of the dataclasses, naming a similar one, or for one that is missing.

    `more` gives the names of further options; it is called only if an option is in none of `kinds`.
    """
    options = [one for kind in kinds for one in fields(kind)]
    names, known = dict(given.names()), [one.name for one in options]
    if any(name not in known for name in names.values()):
        known += more()
    for written, name in names.items():
        mark = "--" if written.startswith("-") else ""
        if name not in known and not (mark and name.removeprefix("no_") in known):
            similar = difflib.get_close_matches(name.lstrip("-"), known, 1)
            hint = f"Did you mean {mark}{similar[0]}? " if similar else ""
            raise OptionError(f"Unknown option {written}. {hint}--help lists the options.")
    for one in options:
        if is_required(one) and one.name not in names.values():
            raise OptionError(f"Give --{one.name}: {one.metadata['help']}")


def is_required(option: Field[Any]) -> bool:
    """Whether an option has no default."""
    return option.default is MISSING and option.default_factory is MISSING


def trainer_options() -> list[str]:
    """Names of the options of transformers' Trainer, read from its source: importing it takes seconds."""
    found = importlib.util.find_spec("transformers")
    (folder,) = found.submodule_search_locations or [""] if found else [""]
    module = ast.parse((Path(folder) / "training_args.py").read_text(encoding="utf-8"))
    bodies = [node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]
    return [
        node.target.id
        for body in bodies
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]

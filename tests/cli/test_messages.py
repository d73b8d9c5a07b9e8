"""Texts of errors: where they name a Python argument, they name the option of the command too."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

import bioscan_hf
from bioscan_hf.cli.main import app

PACKAGE = Path(bioscan_hf.__file__).parent

#: Files whose named arguments cannot be wrong in a command: it has no such option, or checks its values itself.
NOT_FROM_A_COMMAND = {
    "clustering/graph.py": "neighbours of a graph",
    "clustering/protocol.py": "--missing is a choice",
    "clustering/ward.py": "checked by clustering/cluster.py",
    "dataset/canadian_invertebrates.py": "Python only",
    "dataset/letters.py": "--clean is a choice",
    "dataset/request.py": "no command streams unique barcodes",
    "dataset/torch_rows.py": "Python only",
    "encoders/batches.py": "--dtype is a choice",
    "encoders/kmers.py": "checked by the name kmer:K",
    "encoders/rows.py": "Python only",
    "evaluation/bzsl.py": "Python only",
    "evaluation/bzsl_likelihood.py": "Python only",
    "evaluation/bzsl_tuning.py": "Python only",
    "hub/pipelines.py": "Python only",
    "identification/base.py": "checked by the command",
    "losses/contrastive.py": "checked by the trainer",
    "models/configuration_alignedbarcode.py": "configurations of models",
    "models/configuration_barcodebert.py": "configurations of models",
    "models/pixels.py": "Python only",
    "models/processing_clibd.py": "Python only",
    "models/tokenization_kmer.py": "saved tokenizers",
}

#: Words before "=" that are what a user writes.
WRITTEN = {"dna", "image", "order", "family", "name"}


def errors() -> list[tuple[str, str]]:
    """File and text of every `raise` of the package, without what is filled in."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                texts = (one.value for one in ast.walk(node.exc) if isinstance(one, ast.Constant))
                found.append((path.relative_to(PACKAGE).as_posix(), "".join(filter(is_text, texts))))
    return found


def is_text(value: object) -> bool:
    return isinstance(value, str)


def named_in_python(text: str, options: set[str]) -> set[str]:
    """Python arguments that a text names, as `name=` or by a name with an underscore that is an option."""
    assigned = set(re.findall(r"(?<![-\w'/])([a-z]\w*)=(?!=)", text)) - WRITTEN
    return assigned | {name for name in options if re.search(rf"(?<![-\w]){name}(?!\w)", text)}


def test_errors_that_name_an_argument_name_the_option_as_well():
    commands = get_command(app).commands.values()
    options = {one.name for command in commands for one in command.params if "_" in one.name}
    assert {"n_clusters", "max_barcodes"} <= options
    texts = [(path, text) for path, text in errors() if not path.startswith(("training/", "cli/"))]
    assert len(texts) > 300
    wrong = [
        f"{path}: {text}"
        for path, text in texts
        if named_in_python(text, options) and "--" not in text and path not in NOT_FROM_A_COMMAND
    ]
    assert not wrong, "\n".join(wrong)


def test_trainers_name_flags():
    """Their options have the names of fields, so a name before "=" would be Python."""
    wrong = [text for path, text in errors() if path.startswith("training/") and named_in_python(text, set())]
    assert not [text for text in wrong if "--" not in text], wrong


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Give n_clusters.", {"n_clusters"}),
        ("pass force=True (--force)", {"force"}),
        ("write order=Diptera, or --n-clusters 4", set()),
        ("'labels_n_clusters' in a/n=3", set()),
    ],
)
def test_the_search_finds_arguments(text, named):
    assert named_in_python(text, {"n_clusters"}) == named

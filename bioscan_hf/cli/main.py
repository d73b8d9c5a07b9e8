"""The command line, `bioscan-hf`: its arguments, and how results and errors are shown.

`commands` and `commands_models` do the work.

Starts without torch. Errors are told in one line on standard error; `--debug` shows where they come from.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..schema import CONFIGS, SPLITS
from . import data as commands
from . import models as commands_models

Run = Callable[[argparse.Namespace], dict[str, Any]]

EXIT_CODES = """exit status:
  0    done
  1    an error in what was given or found; the message says what to do
  2    arguments that cannot be used
  3    a fault of this program; --debug shows where
  130  interrupted; most commands go on where they stopped when started again"""

#: What is told as an error of the input; anything else is a fault of the program.
EXPECTED = (ValueError, KeyError, OSError, RuntimeError, ModuleNotFoundError)


class Overview(argparse.RawDescriptionHelpFormatter):
    """Leaves the list of the commands to the overview, where they stand in groups."""

    def _iter_indented_subactions(self, action: argparse.Action) -> Generator[argparse.Action, None, None]:
        yield from ()


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    top = argparse.ArgumentParser(
        prog="bioscan-hf",
        description="BIOSCAN-5M and its benchmarks: from release files to models of DNA barcodes and photos,\n"
        "and their numbers.",
        formatter_class=Overview,
    )
    top.add_argument("--version", action="version", version=f"bioscan-hf {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    show = common.add_argument_group("what is shown")
    show.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    show.add_argument("--quiet", action="store_true", help="print nothing but errors")
    show.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    found = top.add_subparsers(dest="command", metavar="COMMAND", required=True, help="one of those below")
    overview: list[str] = []

    def command(name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser:
        overview.append(f"  {name:<11} {text}")
        sub = found.add_parser(
            name,
            parents=[common],
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    for title, add in GROUPS.items():
        overview.append(f"\n{title}:")
        add(command)
    top.epilog = (
        "\n".join(overview).strip() + "\n\n`bioscan-hf COMMAND --help` shows an example of each.\n\n" + EXIT_CODES
    )
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; prints its result, as JSON with --json. Leaves with one of the statuses of `EXIT_CODES`."""
    options = parser().parse_args(arguments)
    if options.json and options.quiet:
        parser().error("--json prints the result and --quiet prints nothing: give one of them.")
    try:
        result = options.run(options)
        if options.json:
            print(json.dumps(result, ensure_ascii=False))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"bioscan-hf {options.command}: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None
    except EXPECTED as error:
        if options.debug:
            raise
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"bioscan-hf {options.command}: {message}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        if options.debug:
            raise
        told = f"a fault of this program, {type(error).__name__}: {error}. --debug shows where; please report it."
        print(f"bioscan-hf {options.command}: {told}", file=sys.stderr)
        raise SystemExit(3) from None


Command = Callable[[str, Run, str, str], argparse.ArgumentParser]

SOURCE = "Hub id, Parquet folder, release folder or metadata CSV"


def _try(command: Command) -> None:
    """Commands on made-up data."""
    sub = command(
        "demo",
        commands.demo,
        "run everything on a made-up release and write a report",
        "bioscan-hf demo --output demo",
    )
    sub.add_argument("--output", type=Path, default=Path("demo"), help="new folder (default: demo)")
    sub.add_argument("--specimens", type=int, default=3000, help="size of the made-up release (default: 3000)")
    sub.add_argument("--steps", type=int, default=300, help="steps of pretraining (default: 300)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--force", action="store_true", help="replace an earlier demo in that folder")

    sub = command(
        "simulate",
        commands.simulate,
        "write a small made-up release in the published layout",
        "bioscan-hf simulate release --specimens 2000 --seed 0",
    )
    sub.add_argument("output", type=Path, help="new folder")
    sub.add_argument("--specimens", type=int, default=2000)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--folders", action="store_true", help="write photos into folders instead of zips")
    sub.add_argument("--metadata-only", action="store_true", help="no photos: millions of specimens in little memory")
    sub.add_argument("--force", action="store_true", help="replace an earlier simulation in that folder")


def _data(command: Command) -> None:
    """Commands that bring a release here and make a dataset of it."""
    sub = command(
        "download",
        commands.download,
        "download the published files that a config and split need, and verify them",
        "bioscan-hf download release --config cropped_256 --split train",
    )
    sub.add_argument("output", type=Path, help="folder; what is right there is not downloaded again")
    sub.add_argument("--config", choices=CONFIGS, default="dna", help="photos or none (default: dna)")
    sub.add_argument("--split", default="all", help="a split, seen, unseen, all, or a+b (default: all)")
    sub.add_argument("--source", default="hub", help="hub, or the address of a folder with the files (default: hub)")
    sub.add_argument("--revision", help="of the Hub's repository (default: the one whose checksums are known)")
    sub.add_argument("--boxes", action="store_true", help="the table of bounding boxes as well")
    sub.add_argument("--retries", type=int, default=5, help="further attempts without progress (default: 5)")
    sub.add_argument("--check", action="store_true", help="download nothing: tell what is there, missing or damaged")
    sub.add_argument("--reread", action="store_true", help="with --check: compute every checksum anew")

    sub = command(
        "split",
        commands.split,
        "partition a metadata CSV as the paper does",
        "bioscan-hf split barcodes.csv.gz partitioned.csv --seed 0",
    )
    sub.add_argument("input", type=Path, help="CSV (or .csv.gz) with processid, genus, species and dna_barcode")
    sub.add_argument("output", type=Path, help="CSV to write; a column `split` is added or filled")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--hold-out-species",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="simulation: treat this share of the species as unnamed, so that there are unseen species",
    )
    sub.add_argument(
        "--unlabel",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="simulation: take the labels from this share of the other barcodes, so that there is a pretrain split",
    )
    sub.add_argument("--force", action="store_true", help="replace the output file")

    sub = command(
        "crop",
        commands.crop,
        "cut photos to their insect, by a table of boxes or a detector",
        "bioscan-hf crop release crops --boxes release/BIOSCAN_5M_Insect_bbox.tsv",
    )
    sub.add_argument("source", type=Path, help="release with original photos, or folder of JPEGs")
    sub.add_argument("output", type=Path, help="new folder, or that of an interrupted run")
    by = sub.add_mutually_exclusive_group(required=True)
    by.add_argument("--boxes", type=Path, help="table of bounding boxes (tab separated)")
    by.add_argument("--model", help="folder or Hub id of a DETR that finds insects")
    sub.add_argument("--package", help="photos of a release (default: original_full, else original_256)")
    sub.add_argument("--split", default="all")
    sub.add_argument("--style", default="bioscan5m", help="margin and padding: bioscan5m, croptool or bioscan1m")
    sub.add_argument("--size", type=int, default=256, help="shorter side in pixels; 0 leaves crops as they are")
    sub.add_argument("--keep-going", action="store_true", help="report problems in problems.csv instead of stopping")

    sub = command(
        "build",
        commands.build,
        "write a release as Parquet that load_dataset reads by name",
        "bioscan-hf build release dataset --config cropped_256",
    )
    sub.add_argument("source", type=Path, help="folder of a release, or its metadata (CSV, TSV, JSON-LD, zip)")
    sub.add_argument("output", type=Path, help="new folder, or that of an interrupted build")
    sub.add_argument(
        "--config",
        action="append",
        choices=CONFIGS,
        help="what to build, repeatable; dna always is (default: all that the source has photos for)",
    )
    sub.add_argument("--split", help="build some splits only: a split, seen, unseen, or a+b (default: all)")
    sub.add_argument("--workers", type=int, default=1, help="processes that read photos (default: 1)")
    sub.add_argument("--shard", type=int, metavar="I", help="this is machine I, from 0 on, of several (with --of)")
    sub.add_argument("--of", type=int, metavar="N", help="number of machines")
    sub.add_argument("--keep-going", action="store_true", help="report problems in problems.csv instead of stopping")
    sub.add_argument("--force", action="store_true", help="replace another build in that folder")

    sub = command(
        "publish",
        commands.publish,
        "upload a build to the Hub; an interrupted upload goes on",
        "bioscan-hf publish dataset user/my-barcodes --private",
    )
    sub.add_argument("folder", type=Path, help="what `bioscan-hf build` wrote")
    sub.add_argument("repo_id", help="user/name; the repository is created if need be")
    sub.add_argument("--private", action="store_true", help="a new repository only its owner can read")
    sub.add_argument("--revision", help="branch (default: main)")

    sub = command(
        "stats",
        commands.stats,
        "describe a dataset: splits, ranks, diversity, places, sizes, lengths",
        "bioscan-hf stats dataset --plots pictures",
    )
    sub.add_argument("source", help=SOURCE)
    sub.add_argument("--plots", type=Path, metavar="DIR", help="write pictures there")
    sub.add_argument("--distances", action="store_true", help="pairwise barcode distances per rank; takes long")
    sub.add_argument("--max-barcodes", type=int, metavar="N", help="at most so many barcodes of a group for them")
    sub.add_argument("--seed", type=int, default=0, help="of the sampling of barcodes")
    sub.add_argument("--force", action="store_true", help="replace pictures that are in DIR")


def _models(command: Command) -> None:
    """Commands that need or make a model."""
    sub = command(
        "embed",
        commands_models.embed,
        "write the embeddings of barcodes or photos, of a dataset or of sequences of your own",
        "bioscan-hf embed dataset embeddings --model out/barcodebert --split train --split test_unseen\n"
        "  bioscan-hf embed reads.fasta embeddings --model out/barcodebert",
    )
    sub.add_argument("source", help=f"{SOURCE}; or FASTA, FASTQ, CSV or TSV with sequences, also .gz")
    sub.add_argument(
        "output", type=Path, help="folder; each split gets a folder in it, and an interrupted run goes on"
    )
    sub.add_argument("--model", required=True, help="folder or Hub id, kmer:K, cnn:FOLDER, hf:ID or timm:ID")
    sub.add_argument("--split", action="append", help=f"repeatable (default: train, test, test_unseen); {SPLITS}")
    sub.add_argument("--taxon", action="append", metavar="RANK=NAME", help="these alone, such as order=Diptera")
    sub.add_argument("--batch-size", type=int, default=256)
    sub.add_argument("--unique-barcodes", action="store_true", help="one specimen of each barcode")
    sub.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="precision; auto is bfloat16 on a GPU and float32 elsewhere",
    )
    sub.add_argument("--trust-remote-code", action="store_true", help="run the code in the repository of an hf:ID")
    photos = sub.add_argument_group("photos")
    photos.add_argument("--config", choices=CONFIGS, default="dna", help="dna embeds barcodes, the others photos")
    photos.add_argument("--weights", type=Path, help="file of weights of a published encoder, or of a timm:ID")
    photos.add_argument("--random-weights", action="store_true", help="an untrained network, to compare with")
    photos.add_argument(
        "--pooling", choices=("model", "token", "avg", "avg_before_norm"), help="default: the encoder's own"
    )
    photos.add_argument("--zoom", type=float, help="below 1 cuts a border off (default: 1)")
    photos.add_argument("--workers", type=int, help="threads that decode (default: 1)")
    _own_sequences(sub)

    sub = command(
        "convert",
        commands_models.convert,
        "turn a checkpoint of BarcodeBERT, CLIBD or the crop tool into a folder for from_pretrained",
        "bioscan-hf convert model_41.pth barcodebert",
    )
    sub.add_argument("checkpoint", type=Path, help="file that torch.save wrote")
    sub.add_argument("output", type=Path, help="new folder")
    sub.add_argument("--heads", type=int, help="attention heads, where the file does not tell")
    sub.add_argument(
        "--adapters",
        choices=("merge", "keep"),
        default="merge",
        help="CLIBD: add adapters to the weights, or keep them",
    )
    sub.add_argument("--text-tokenizer", metavar="ID", help="CLIBD: folder or Hub id of its text encoder's tokenizer")
    sub.add_argument("--labels", type=Path, help="text file with the name of each class of a classifier, one a line")

    sub = command(
        "card",
        commands_models.card,
        "render the card of a model, clustering or index from its results file",
        "bioscan-hf card out/species/results.json",
    )
    sub.add_argument("results", type=Path, help="results.json of a trainer, a clustering or a retrieval")
    sub.add_argument("--index", type=Path, metavar="FOLDER", help="write the card of this index, which they are of")
    sub.add_argument("--title", help="default: the name of the folder")
    sub.add_argument("--output", type=Path, help="file to write (default: README.md beside the results)")
    sub.add_argument("--force", action="store_true", help="replace the file")


def _names(command: Command) -> None:
    """Commands that answer what somebody wants to know of specimens of their own."""
    sub = command(
        "identify",
        commands_models.identify,
        "name sequences of your own by their nearest reference, with a confidence at every rank",
        "bioscan-hf identify reads.fasta names.csv --model out/aligned --references dataset",
    )
    sub.add_argument("source", help="FASTA, FASTQ, CSV or TSV with sequences, also .gz")
    sub.add_argument("output", type=Path, help="CSV to write: the deepest sure name, and every rank's")
    sub.add_argument("--model", required=True, help="folder or Hub id of a model, kmer:K, cnn:FOLDER or hf:ID")
    sub.add_argument("--references", required=True, metavar="DATASET", help=SOURCE)
    sub.add_argument("--split", action="append", help="of the references, repeatable (default: train)")
    sub.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the references' embeddings there for next time")
    sub.add_argument(
        "--least", type=float, default=0.95, help="confidence that the name in column `name` has (default: 0.95)"
    )
    sub.add_argument(
        "--novel-share",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="how many of the sequences are of species that the references lack, as you expect it (default: 0.5)",
    )
    sub.add_argument("--batch-size", type=int, default=256)
    sub.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="precision")
    sub.add_argument("--seed", type=int, default=0, help="of the references that confidences are learned from")
    sub.add_argument("--trust-remote-code", action="store_true", help="run the code in the repository of an hf:ID")
    sub.add_argument("--force", action="store_true", help="replace the output file")
    _own_sequences(sub)


def _benchmarks(command: Command) -> None:
    """Commands that measure embeddings."""
    sub = command(
        "probe",
        commands_models.probe,
        "measure embeddings: species of test, genus of test_unseen, by nearest neighbour in train or a linear probe",
        "bioscan-hf probe dataset embeddings --output probe.json",
    )
    sub.add_argument("source", help="where the labels are: the source that was embedded")
    sub.add_argument("embeddings", type=Path, help="what `bioscan-hf embed` wrote")
    sub.add_argument("--output", type=Path, help="results file (default: results.json in EMBEDDINGS)")
    sub.add_argument("--probe", choices=("knn", "linear"), default="knn", help="default: knn")
    sub.add_argument("--k", type=int, default=1, help="knn: neighbours (default: 1)")
    sub.add_argument("--metric", choices=("cosine", "euclidean"), default="cosine", help="knn: default: cosine")
    sub.add_argument(
        "--temperature", type=float, help="knn: near neighbours weigh more the smaller it is, such as 0.07"
    )
    sub.add_argument(
        "--protocol", choices=("default", "upstream"), default="default", help="linear: upstream is the published one"
    )
    sub.add_argument("--force", action="store_true", help="replace the results file")

    sub = command(
        "retrieve",
        commands_models.retrieve,
        "measure retrieval: top-1, 3 and 5 of seen and unseen species, by nearest key of train and key_unseen",
        "bioscan-hf retrieve dataset embeddings",
    )
    sub.add_argument("source", help="where the labels are: the source that was embedded")
    sub.add_argument(
        "embeddings", type=Path, help="what `bioscan-hf embed` wrote of train, key_unseen, test, test_unseen"
    )
    sub.add_argument("--output", type=Path, help="results file (default: retrieval.json in EMBEDDINGS)")
    sub.add_argument(
        "--ties", choices=("vote", "parity"), default="vote", help="equally near keys vote, or as published"
    )
    sub.add_argument("--index", choices=("exact", "hnsw", "ivfpq"), default="exact", help="the others need faiss")
    sub.add_argument("--force", action="store_true", help="replace the results file")


def _clustering(command: Command) -> None:
    """The command that clusters embeddings."""
    sub = command(
        "cluster",
        commands_models.cluster,
        "cluster embeddings and compare the clusters with the taxa of every rank",
        "bioscan-hf cluster dataset embeddings --output clusters\n"
        "  bioscan-hf cluster dataset image=photos --with dna=barcodes --output both",
    )
    sub.add_argument("source", help="where the labels are: the source that was embedded")
    sub.add_argument("embeddings", metavar="[NAME=]FOLDER", help="what `bioscan-hf embed` wrote")
    sub.add_argument(
        "--with",
        dest="also",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="another modality of the same specimens, repeatable",
    )
    sub.add_argument("--output", type=Path, required=True, help="folder for results, clusters and pictures")
    sub.add_argument(
        "--preset",
        choices=("bioscan5m", "caninv"),
        default="bioscan5m",
        help="published protocol; what is given besides overrides it (default: bioscan5m: UMAP and Ward)",
    )
    sub.add_argument("--reducer", choices=("none", "pca", "umap", "pacmap"))
    sub.add_argument(
        "--clusterer",
        choices=(
            *("ward", "graph-ward", "average", "genie", "kmeans"),
            *("minibatch-kmeans", "hdbscan", "leiden", "louvain"),
        ),
    )
    sub.add_argument(
        "--n-clusters",
        metavar="K",
        help="a number, a rank (as many as it has names: the published choice, species), or silhouette (by the data)",
    )
    sub.add_argument("--distance-threshold", type=float, help="merge what is nearer, in place of a number of clusters")
    sub.add_argument("--normalization", choices=("none", "l2", "l2_corrected", "elementwise_zscore", "average_zscore"))
    sub.add_argument("--split", action="append", help="repeatable (default: test, test_unseen)")
    sub.add_argument("--seed", type=int, action="append", help="repeatable: runs, whose mean and spread are told")
    sub.add_argument(
        "--missing",
        choices=("error", "drop"),
        default="error",
        help="specimens that lack a modality: an error, or left out",
    )
    sub.add_argument(
        "--map", choices=("umap", "pca", "none"), default="umap", help="how maps are laid out; none writes no pictures"
    )
    sub.add_argument("--photos", choices=[name for name in CONFIGS if name != "dna"], help="show these in the map")
    sub.add_argument("--force", action="store_true", help="replace the results in that folder")


def _program(command: Command) -> None:
    """Commands about the command line itself."""
    sub = command(
        "completion",
        completion,
        "print what makes a shell complete these commands",
        "bioscan-hf completion bash > ~/.local/share/bash-completion/completions/bioscan-hf",
    )
    sub.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh"))


def completion(options: argparse.Namespace) -> dict[str, Any]:
    """The script that makes a shell complete commands, options and the names of files."""
    import shtab

    top = parser()
    for sub in top._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        for action in sub._actions:
            if action.type is Path or action.dest == "source":
                action.complete = shtab.FILE
    script = shtab.complete(top, shell=options.shell)
    commands.say(options, script)
    return {"shell": options.shell, "script": script}


def _own_sequences(sub: argparse.ArgumentParser) -> None:
    """How a file of sequences is read."""
    own = sub.add_argument_group("sequences of your own")
    own.add_argument(
        "--clean",
        choices=("barcode", "none"),
        default="barcode",
        help="barcode makes A, C, G, T and N of lower case, U, IUPAC codes and gaps; none takes letters as they are",
    )
    own.add_argument("--remove-gaps", action="store_true", help='leave "-" and "." out, as for rows of an alignment')
    own.add_argument("--keep-duplicates", action="store_true", help="records of one id are no error")
    own.add_argument("--keep-empty", action="store_true", help="records without a sequence are no error")
    own.add_argument("--id-column", help="column of a table (default: the first of the usual names)")
    own.add_argument("--sequence-column", help="column of a table (default: the one of the usual names)")
    own.add_argument("--encoding", default="utf-8", help="of the file's text (default: utf-8)")


#: What each part of the help is called, and what adds its commands.
GROUPS: dict[str, Callable[[Command], None]] = {
    "Try it": _try,
    "The dataset": _data,
    "Models": _models,
    "Names for specimens": _names,
    "Benchmarks, of embeddings": _benchmarks,
    "Clusters, of embeddings": _clustering,
    "This program": _program,
}


if __name__ == "__main__":
    main()

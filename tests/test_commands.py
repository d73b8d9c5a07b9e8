"""Every command that README, the pages, `--help` and the trainers show runs as it is printed, on a small dataset.

The folder of the test has local stand-ins under the names that the commands use, those of the Hub included. Trainings
get further options, so that they take two steps.
"""

import ast
import csv
import gzip
import re
import shlex
import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from tiny import text_tokenizer
from transformers import AutoModel, BertConfig, BertModel, TimmWrapperConfig
from typer.main import get_command

from bioscan_hf import BarcodeBertConfig, BarcodeBertForMaskedLM, KmerTokenizer
from bioscan_hf.cli.main import app, main
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.simulate.release import simulate_release
from bioscan_hf.trainers import (
    contrast_barcodes,
    evaluate_clibd,
    finetune_barcodebert,
    pretrain_barcodebert,
    train_clibd,
)
from bioscan_hf.training.options.programs import GROUPS

ROOT = Path(__file__).parents[1]
TRAINERS = {
    "pretrain_barcodebert": pretrain_barcodebert,
    "finetune_barcodebert": finetune_barcodebert,
    "contrast_barcodes": contrast_barcodes,
    "train_clibd": train_clibd,
}

#: Start of a command -> why it is not run here.
NOT_RUN = {
    "bioscan-hf COMMAND --help": "stands for every command",
    "bioscan-hf app": "serves until it is stopped; tests/app/test_command.py starts it and writes a Space",
    "bioscan-hf train pretrain --help": "tests/cli/test_train.py runs it",
    "bioscan-hf download": "needs the Hub; tests/release/test_download.py runs it on a local server",
    "bioscan-hf publish": "needs the Hub; tests/dataset/test_publish.py runs it on a local server",
    "bioscan-hf identify reads.fasta names.csv --references user/library": "needs the Hub; "
    "tests/identification/test_publish.py opens a library of a local server",
    "bioscan-hf demo": "the fixture `demo` of tests/cli/test_demo.py runs it",
    "bioscan-hf convert best.pth": "needs a published CLIBD checkpoint; tests/checkpoints/test_clibd.py converts one",
    "bioscan-hf convert BarcodeMamba": "needs a Lightning file; tests/checkpoints/test_barcodemamba.py converts one",
}

#: Part of a command -> what stands for it: small models without weights of the Hub, few specimens.
STAND_INS = {
    "--specimens 2000": "--specimens 120",
    "--preset barcodemae": "--decoder_num_attention_heads 2 --preset barcodemae",
    "--preset barcodemae-plus": "--taxa_per_batch 2 --rows_per_taxon 3 --preset barcodemae-plus",
    "simulate out/release": "simulate out/release --specimens 120",
    "crop release crops --boxes release/": "crop originals crops --boxes originals/",  # simulated photos are cropped
    "identify photos ": "identify pictures ",  # `embed` writes to photos
    "--model dino_vitb16": "--model timm:test_vit --random-weights",
    "--model timm:vit_base_patch16_224.dino": "--model timm:test_vit --random-weights",
}

#: The order in which commands run, so that each finds what it reads.
ORDER = (
    *("cli simulate", "cli build", "cli (split|crop|stats|completion)", "cli convert", "pretrain_barcodebert"),
    *("contrast_barcodes", "finetune_barcodebert", "train_clibd", "cli embed reads", "cli embed", "cli references"),
    *("cli (identify|probe|retrieve|cluster)", "evaluate_clibd .*--source", "evaluate_clibd", "cli card"),
)

SMALL = "--max_steps 2 --per_device_train_batch_size 8 --dataloader_num_workers 0 --use_cpu True --force"
EXTRA = {
    "pretrain_barcodebert": f"{SMALL} --hidden_size 32 --intermediate_size 64 --num_hidden_layers 1 "
    "--num_attention_heads 2",
    "finetune_barcodebert": SMALL,
    "contrast_barcodes": SMALL.replace("--max_steps 2 ", ""),
    "train_clibd": SMALL,
    "evaluate_clibd": "--force",
}


def commands_of(text: str) -> list[str]:
    """The command lines of a text, each in one line; those with "..." stand for others."""
    lines = re.sub(r"[ ]*\\\n\s*", " ", text).splitlines()
    found = (line.strip().removeprefix("$ ").removeprefix(".venv/bin/").partition(" > ")[0] for line in lines)
    start = r"(bioscan-hf \w|python (-m bioscan_hf|trainers/)|(ACCELERATE_USE_CPU=yes )?accelerate launch)"
    named = r"bioscan-hf( train| evaluate)? \w+|.*\.\.\..*"  # a command without its arguments
    return [line for line in found if re.match(start, line) and not re.fullmatch(named, line)]


def shown() -> list[str]:
    """Every command that is shown, once. Blocks of `bash` in guides run in tests/test_guides.py."""
    texts = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        page = path.read_text(encoding="utf-8")
        texts += [text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", page, re.S | re.M) if kind != "bash"]
        texts += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", page, flags=re.S | re.M))
    texts += [command.help or "" for command in get_command(app).commands.values()]
    texts += [example for group in GROUPS.values() for program in group.values() for example in program.examples]
    for path in sorted((ROOT / "trainers").glob("*.py")):
        texts.append(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    return list(dict.fromkeys(command for text in texts for command in commands_of(text)))


def place(command: str) -> int:
    """Place of a command in `ORDER`."""
    program, words = program_and_words(command)
    for number, pattern in enumerate(ORDER):
        if re.match(pattern, " ".join([program, *words])):
            return number
    raise AssertionError(f"ORDER has no place for: {command}")


def program_and_words(command: str) -> tuple[str, list[str]]:
    """The program, "cli" or the name of a trainer, and its arguments."""
    words = shlex.split(command.removeprefix("ACCELERATE_USE_CPU=yes "))
    if words[0] == "accelerate":
        launch = launch_command_parser().parse_args(words[2:])
        assert launch.config_file is None or (ROOT / launch.config_file).is_file()
        words = ["python", *["-m"] * bool(launch.module), launch.training_script, *launch.training_script_args]
    if words[0] == "python":
        name = words[2] if words[1] == "-m" else words[1]
        words = words[3:] if words[1] == "-m" else words[2:]
        if name != "bioscan_hf.cli.main":
            return Path(name.replace(".py", "").replace(".", "/")).name, words
        words = ["bioscan-hf", *words]
    if words[1] in GROUPS:
        return GROUPS[words[1]][words[2]].module, words[3:]
    return "cli", words[1:]


def run(command: str) -> None:
    """Runs a command in this process."""
    for name, other in STAND_INS.items():
        command = command.replace(name, other)
    program, words = program_and_words(command)
    if program == "cli":
        options = get_command(app).commands[words[0]].params
        if words[0] in ("simulate", "build", "crop", "convert", "embed", "cluster", "references"):
            last = words[1] if words[0] == "simulate" else words[2]
            output = words[words.index("--output") + 1] if "--output" in words else last
            shutil.rmtree(output, ignore_errors=True)
        if words[0] == "cluster":
            words += ["--reducer", "none", "--map", "none"]  # UMAP compiles itself: tests/clustering runs it
        main([*words, *(["--force"] if any(option.name == "force" for option in options) else [])])
        return
    words += shlex.split(EXTRA[program])
    if program == "contrast_barcodes" and {"--max_steps", "--num_train_epochs"} & set(words):
        words += ["--max_steps", "2"]
    if program == "evaluate_clibd":
        evaluate_clibd.main(words)
    else:
        TRAINERS[program].main(*TRAINERS[program].parse(words))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the commands read and that no command makes."""
    monkeypatch.chdir(tmp_path)
    release = simulate_release("release", 120, seed=1)
    simulate_release("originals", 60, seed=1, packages=("original_256",))
    with open(find_metadata(release), newline="") as file:
        rows = [row | {"split": "", "chunk": ""} for row in csv.DictReader(file) if row["species"]]
    for name in ("barcodes.csv", "barcodes.csv.gz"):
        with (gzip.open if name.endswith("gz") else open)(name, "wt", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    with open("bold.tsv", "w", newline="") as file:
        names = ("processid", "phylum", "class", "order", "family", "genus", "species", "dna_barcode")
        table = csv.DictWriter(file, names, delimiter="\t", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    Path("reads.fasta").write_text("".join(f">{row['processid']}\n{row['dna_barcode']}\n" for row in rows[:9]))
    Path("asv_table.csv").write_text("asv,lake\n" + "".join(f"{row['processid']},1\n" for row in rows[:9]))
    Path("pictures").mkdir()
    with ZipFile(next(release.glob("*cropped_256_train.zip"))) as archive:
        for name in [name for name in archive.namelist() if name.endswith(".jpg")][:4]:
            Path("pictures", Path(name).name).write_bytes(archive.read(name))
    make_models()
    return tmp_path


def make_models() -> None:
    """Checkpoints in the published layout, and encoders under the names that they have on the Hub."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    bert = BarcodeBertForMaskedLM(BarcodeBertConfig(**shape))
    body = {f"bert.{name}": value for name, value in bert.bert.state_dict().items()}
    head = {"classifier.weight": torch.zeros(256, 32), "classifier.bias": torch.zeros(256)}
    for name in ("checkpoint.pt", "model_41.pth", "checkpoint_pretraining.pt"):
        torch.save({"model": body | head, "bert_config": bert.config.to_dict()}, name)
    torch.save({"model": bert.bert.state_dict(), "bert_config": bert.config.to_dict()}, "best_pretraining.pt")
    BarcodeBertForMaskedLM(BarcodeBertConfig(k=5, **shape)).save_pretrained("out/barcodebert_k5")
    KmerTokenizer(k=5).save_pretrained("out/barcodebert_k5")
    bert.save_pretrained("bioscan-ml/BarcodeBERT")
    KmerTokenizer(k=4).save_pretrained("bioscan-ml/BarcodeBERT")
    BertModel(BertConfig(vocab_size=139, **shape)).save_pretrained("prajjwal1/bert-small")
    text_tokenizer().save_pretrained("prajjwal1/bert-small")
    vit = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    image = AutoModel.from_config(TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=vit))
    image.save_pretrained("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k")


@pytest.mark.slow
def test_each_shown_command_runs_or_says_why_not(folder):
    """One test, because commands read what others have made."""
    commands = shown()
    assert len(commands) > 60
    unused = [start for start in NOT_RUN if not any(command.startswith(start) for command in commands)]
    assert not unused, unused
    chosen = sorted((one for one in commands if not one.startswith(tuple(NOT_RUN))), key=place)
    done: dict[tuple[str, ...], str] = {}
    for command in chosen:
        what, output = without_folders(command)
        if what in done:  # the same trainer with the same options, over the same data under another name
            if output != done[what]:
                shutil.rmtree(output, ignore_errors=True)
                shutil.copytree(done[what], output)
            continue
        try:
            run(command)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{command}\n{type(error).__name__}: {error}") from error
        if output:
            done[what] = output
        if "--output_dir out/clibd" in command or "build release dataset" in command:
            stand_for_others()


def without_folders(command: str) -> tuple[tuple[str, ...], str]:
    """A training without its source and its output folder, and this folder; "" for another command."""
    program, words = program_and_words(command)
    if program not in TRAINERS:
        return (program, *words), ""
    places = [words.index("--source"), words.index("--output_dir")]
    rest = [word for place, word in enumerate(words) if place not in places and place - 1 not in places]
    return (program, *rest), words[places[1] + 1]


def stand_for_others() -> None:
    """Further names of the dataset, and of models and results of other trainings."""
    names = {"bioscan-ml/BIOSCAN-5M": "dataset", "RELEASE_FOLDER": "release"}
    names |= {"out/unaligned": "out/clibd", "clibd": "out/clibd"}
    names |= {f"out/{name}": "out/retrieval" for name in ("none", "1m", "5m")}
    for name, target in names.items():
        if not Path(name).exists():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).unlink(missing_ok=True)
            Path(name).symlink_to(Path(target).absolute())

"""bioscan-hf train: the trainers as commands, on a built dataset."""

import json
import shlex
import subprocess
import sys

import pytest

from bioscan_hf.cli.main import main
from bioscan_hf.dataset import sources
from bioscan_hf.training.arguments import BarcodeTrainingArguments
from bioscan_hf.training.checks import check_training
from bioscan_hf.training.options.programs import PROGRAMS

SMALL = "hidden_size: 32\nintermediate_size: 64\nnum_hidden_layers: 1\nmax_steps: 2\nuse_cpu: on\neval_strategy: no\n"


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path, monkeypatch, dataset):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(dataset)


def stops(capsys, status, *words):
    """The one line of an error."""
    with pytest.raises(SystemExit) as stopped:
        main(["train", *words])
    out, err = capsys.readouterr()
    assert stopped.value.code == status and out == "" and len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_has_two_examples_and_our_own_options(name, capsys):
    main(["train", name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: bioscan-hf train {name} ") and lines[2] == "Examples:"
    assert lines[3].startswith(f"  bioscan-hf train {name} --source dataset ")
    assert lines[4].startswith("  accelerate launch --num_processes 4 -m bioscan_hf.cli.main train ")
    shown = {line.split()[0] for line in lines if line.startswith("  --")}
    assert {"--source", "--output_dir", "--learning_rate", "--json", "--quiet", "--debug"} <= shown
    assert "--adam_beta1" not in shown


def test_help_and_wrong_options_load_no_torch():
    code = """
import sys
from bioscan_hf.cli.main import main
for words in (["--help"], ["pretrain", "--help"], ["pretrain", "--sauce", "x"], ["pretrain", "--adam_beta1", "0.9"]):
    try:
        main(["train", *words])
    except SystemExit as stopped:
        print(stopped.code)
print([name for name in ("torch", "transformers", "datasets", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-3:] == ["2", "2", "[]"]
    unknown, missing = done.stderr.splitlines()
    assert unknown.endswith("Unknown option --sauce. Did you mean --source? --help lists the options.")
    assert missing.startswith("bioscan-hf train pretrain: Give --source: ")


def test_the_most_telling_error_comes_first_and_is_one_line(capsys, monkeypatch):
    def told(*words, status=2):
        return stops(capsys, status, *words)

    assert "Unknown option --epochs." in told("pretrain", "--epochs", "3")  # nor is there a --source
    assert "Unknown option -k. Did you mean --k?" in told("pretrain", "-k", "8")
    assert "Give --model: Folder or Hub id" in told("finetune", "--source", "dataset")
    assert "--k: invalid int value: 'a'" in told("pretrain", "--source", "dataset", "--k", "a")
    assert "'dataset' belongs to no option" in told("pretrain", "--source", "dataset", "dataset")
    assert "There is no file 'no.yaml'" in told("pretrain", "no.yaml", status=1)
    assert "--eval_strategy: never is not a valid" in told(
        "contrast", "--source", "dataset", "--eval_strategy", "never"
    )
    monkeypatch.setenv("LOCAL_RANK", "1")  # another process of the same machine
    with pytest.raises(SystemExit):
        main(["train", "pretrain", "--epochs", "3"])
    assert capsys.readouterr().err == ""


def test_missing_folders_are_not_looked_up_on_the_hub(capsys, tmp_path, monkeypatch):
    """ "out/bert" could be a Hub id, but there is a folder "out"."""
    monkeypatch.setattr(sources, "HubDataset", None)
    (tmp_path / "out").mkdir()
    for missing in ("datset", "out/dataset", "./a/b"):
        told = stops(capsys, 1, "pretrain", "--source", missing, "--use_cpu", "--output_dir", "new")
        assert f"There is nothing at '{missing}'" in told
    told = stops(capsys, 1, "finetune", "--source", "dataset", "--model", "out/bert", "--output_dir", "new")
    assert "No model at 'out/bert': the folder does not exist" in told
    with pytest.raises(SystemExit):
        main(["embed", "dataset", "e", "--model", "out/bert"])
    assert "No model at 'out/bert'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_published_presets_on_a_build_and_the_next_commands(capsys, tmp_path):
    """Options from a file, and flags that override it; what is printed at the end runs as printed."""
    (tmp_path / "small.yaml").write_text(f"source: nowhere\nper_device_train_batch_size: 8\n{SMALL}")
    common = ("small.yaml", "--source", "dataset", "--k", "8", "--logging_steps", "1")
    main(["train", "pretrain", *common, "--preset", "main", "--output_dir", "out/bert"])
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("Wrote out/bert")
    assert [line.split("  ")[0] for line in lines[place - 4 : place]] == [
        "metric",
        "train loss",
        "validation masked loss",
        "validation masked accuracy",
    ]
    assert "nats" in lines[place - 2] and lines[place + 1] == "Next:" and len(lines) == place + 4
    for line in lines[place + 2 :]:
        main(shlex.split(line)[1:])
    assert (tmp_path / "out/bert_embeddings/results.json").is_file()
    main(["retrieve", "dataset", "out/bert_embeddings", "--quiet"])  # embed has read what it needs
    capsys.readouterr()
    main(["train", "pretrain", *common, "--preset", "masked-only", "--output_dir", "out/masked", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert results["options"]["deduplicate"] == "upstream" and results["options"]["k"] == 8
    taxa = ("--ranks", "genus", "species", "--max_steps", "2", "--use_cpu", "--output_dir", "out/taxa")
    main(["train", "finetune", "--source", "dataset", "--model", "out/bert", *taxa])
    out = capsys.readouterr().out
    assert "split  rank     accuracy  macro accuracy  macro F1" in out and "bioscan-hf identify reads.fasta" in out


@pytest.mark.slow
def test_two_processes_print_one_summary(tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "bioscan_hf.cli.main"]
    words = ["train", "contrast", "--source", "dataset", "--embedding_size", "16", "--output_dir", "aligned"]
    environment = {"ACCELERATE_USE_CPU": "yes", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        done = subprocess.run([sys.executable, *launch, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Wrote aligned") == 1 and "species of val" in done.stdout


def test_several_gpus_in_one_process_need_the_launcher(monkeypatch, tmp_path):
    words = ["train", "pretrain", "--source", "my data", "--output_dir", "out"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/bioscan-hf", *words])
    training_args = BarcodeTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    training_args._n_gpu = 4
    command = "accelerate launch --num_processes 4 -m bioscan_hf.cli.main train pretrain --source 'my data'"
    with pytest.raises(ValueError, match=f"One process sees 4 GPUs.*{command}"):
        check_training(training_args)

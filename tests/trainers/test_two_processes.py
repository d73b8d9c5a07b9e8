"""Two processes under `accelerate launch`, killed by SIGKILL and requeued, end as two that were not stopped."""

import pytest
from clibd_runs import flags as clibd_flags
from clibd_runs import make_folder
from training_runs import as_flags, history, launch_in_turn, losses, results_of, same_weights

SHAPE = {"k": 2, "max_nucleotides": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
PRETRAIN = SHAPE | {"num_attention_heads": 1, "dropout": 0.2, "train_split": "train", "learning_rate": 1e-2}
PRETRAIN |= {"per_device_train_batch_size": 4, "max_steps": 8, "logging_steps": 1, "eval_strategy": "steps"}
PRETRAIN |= {"eval_steps": 3, "save_strategy": "steps", "save_steps": 3, "use_cpu": True, "disable_tqdm": True}

#: Three passes, of 2.5 steps each; two data workers in each process.
STREAM = {"streaming": True, "max_train_specimens": 40, "per_device_train_batch_size": 8, "dataloader_num_workers": 2}
STREAM |= {"max_steps": 6, "save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-3}


@pytest.mark.slow
def test_two_processes_that_are_killed_and_requeued_end_with_the_same_model(dataset, tmp_path):
    """Pretraining and a stream of CLIBD, with dropout, killed between two checkpoints: equal weights and curves."""
    model = make_folder(tmp_path / "model", dropout=0.1)

    def runs(name, **options):
        common = {"source": str(dataset), "output_dir": str(tmp_path / f"bert {name}")}
        return [
            ("pretrain_barcodebert", as_flags(PRETRAIN | common | options)),
            ("train_clibd", clibd_flags(dataset, model, tmp_path / f"clibd {name}", **STREAM, **options)),
        ]

    last = {"resume_from_checkpoint": "last"}
    launch_in_turn(runs("whole"), tmp_path / "1")
    for number, run, step in ((2, 0, 5), (3, 1, 5)):
        launch_in_turn(runs("killed", **last)[run : run + 1], tmp_path / str(number), kill_at=step)
    for name, saved in (("bert", 3), ("clibd", 4)):
        checkpoints = [path.name for path in (tmp_path / f"{name} killed").glob("checkpoint-*")]
        assert checkpoints == [f"checkpoint-{saved}"] and not (tmp_path / f"{name} killed/results.json").exists()
    launch_in_turn(runs("killed", **last), tmp_path / "4")
    for name, steps in (("bert", 8), ("clibd", 6)):
        whole, killed = tmp_path / f"{name} whole", tmp_path / f"{name} killed"
        assert results_of(killed)["processes"] == 2 and results_of(killed)["steps"] == steps
        assert len(set(losses(whole))) == steps and history(killed) == history(whole)
        same_weights(whole, killed)
    stream = results_of(tmp_path / "clibd whole")
    assert stream["splits"] == {"train": 40} and stream["options"]["max_train_specimens"] == 40
    assert history(tmp_path / "clibd whole")[-1]["epoch"] == pytest.approx(6 * 16 / 40)

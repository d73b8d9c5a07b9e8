"""Options of the trainers: from flags, and from a YAML file whose values are not those of YAML."""

import dataclasses

import pytest
from transformers import TrainingArguments

from bioscan_hf.trainers import contrast_barcodes, finetune_barcodebert, pretrain_barcodebert, train_clibd
from bioscan_hf.training.options.given import OptionError, read_yaml, trainer_options
from bioscan_hf.training.options.programs import PROGRAMS

TRAINERS = {
    "pretrain": pretrain_barcodebert,
    "finetune": finetune_barcodebert,
    "contrast": contrast_barcodes,
    "clibd": train_clibd,
}


def test_names_of_the_trainer_are_read_from_its_source():
    assert set(trainer_options()) == {field.name for field in dataclasses.fields(TrainingArguments)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_and_program_have_the_same_options_and_defaults(name):
    """`--help` reads dataclasses that load no torch; the program's own are made of them."""
    program = PROGRAMS[name]
    assert TRAINERS[name].__name__.endswith(program.module)
    given = ["--source", "x", "--model", "y"] if name == "finetune" else ["--source", "x"]
    options, training_args = TRAINERS[name].parse([*given, "--use_cpu"])
    assert type(options) is program.options and isinstance(training_args, program.training)
    for field in dataclasses.fields(program.training):
        if field.default is not None:  # None is completed
            assert getattr(training_args, field.name) == field.default, field.name


def test_yaml_values_keep_their_meaning(tmp_path):
    """YAML takes no, on and off for booleans, 1e-4 for a text, 012 for 10, and a day for a date."""
    path = tmp_path / "options.yaml"
    path.write_text(
        "source: 1e5\neval_strategy: no\nlearning_rate: 1e-4\nuse_cpu: on\nsimilar_lengths: off\nmax_steps: 1_000\n"
        "output_dir: 2026-11-27\nsave_total_limit: null\nlr_scheduler_kwargs: {min_lr_rate: 1e-6}\n"
        "report_to: [none]\nseed: 012\nrun_name: yes\nlogging_steps: 1e1\nmask_token_id: ~\n"
    )
    options, training_args = pretrain_barcodebert.parse([str(path), "--k", "8", "--preset=main", "--seed", "7"])
    assert (options.source, options.k, options.mask_token_id) == ("1e5", 8, None)
    assert training_args.eval_strategy == "no" and training_args.learning_rate == 1e-4
    assert training_args.use_cpu is True and training_args.similar_lengths is False
    assert (training_args.max_steps, training_args.output_dir) == (1000, "2026-11-27")
    assert training_args.save_total_limit is None and training_args.lr_scheduler_kwargs == {"min_lr_rate": 1e-6}
    assert (training_args.seed, training_args.run_name, training_args.logging_steps) == (7, "yes", 10)
    assert options.deduplicate == "upstream"  # of the preset
    path.write_text("source: x\nmodel: y\nranks: species\ntest_splits: [test, test_unseen]\nuse_cpu: yes\n")
    options, _ = finetune_barcodebert.parse([str(path)])
    assert options.ranks == ["species"] and options.test_splits == ["test", "test_unseen"]
    path.write_text("source: x\npairs: []\ntext_templates: null\nno_augment: true\n")
    with pytest.raises(OptionError, match="Unknown option no_augment. --help lists"):
        train_clibd.parse([str(path)])


def test_files_without_options_are_named(tmp_path):
    path = tmp_path / "options.yaml"
    for text, told in (("- a\n", "holds no options"), ("a: [\n", "is not a YAML file"), ("", "holds no options")):
        path.write_text(text)
        with pytest.raises(OptionError, match=f"options.yaml' {told}"):
            read_yaml(path)

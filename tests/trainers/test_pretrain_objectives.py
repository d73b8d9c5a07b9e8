"""Masked k-mers or a masked autoencoder, with or without names of taxa; the published BarcodeMamba: one trainer.

The runs are tiny: 96 barcodes of 60 nucleotides in four genera of different ancestors, and a model of one layer.
"""

import random
import shutil

import pytest
import torch
from training_runs import (
    RUN,
    SGD,
    TINY,
    as_flags,
    divide,
    history,
    launch_in_turn,
    losses,
    results_of,
    same_steps,
    same_weights,
    write_csv,
)
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.embed import embed
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertModel
from bioscan_hf.models.modeling_barcodemae import BarcodeMaeForPreTraining
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM, BarcodeMambaModel
from bioscan_hf.trainers import finetune_barcodebert, pretrain_barcodebert
from bioscan_hf.training.arguments import BarcodeTrainingArguments
from bioscan_hf.training.finetuning import FinetuningOptions
from bioscan_hf.training.pretraining import PretrainingOptions, load_barcodes
from bioscan_hf.training.taxon_objective import TaxonObjective, label_rows, labels_of

MAE = {"objective": "mae", "decoder_num_hidden_layers": 1, "decoder_hidden_size": 16}
TAXA = {"vocabulary": "barcodebert-cls", "taxon_objective": "classes", "taxon_warmup_epochs": 1.0}
BATCHES = {"taxa_per_batch": 2, "rows_per_taxon": 3, "similar_lengths": False}
MAMBA = {"backbone": "mamba", "mamba_block": "published", "vocabulary": "barcodemamba", "objective": "next"}
MAMBA |= {"loss_on": "all", "head_dim": 16, "state_size": 16}
OBJECTIVES = {"masked": {}, "mae": MAE, "masked and taxa": TAXA, "mae and taxa": MAE | TAXA | BATCHES}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A metadata CSV: 64 barcodes in pretrain, of which 48 have a genus, and 32 in val without names."""
    draw = random.Random(0)
    ancestors = ["".join(draw.choices("ACGT", k=60)) for _ in range(4)]
    rows = []
    for i in range(96):
        barcode = "".join(draw.choice("ACGT") if draw.random() < 0.1 else letter for letter in ancestors[i % 4])
        named = i < 64 and i % 16 < 12
        rows.append(
            {
                "processid": f"P{i}",
                "dna_barcode": barcode,
                "split": "pretrain" if i < 64 else "val",
                "phylum": "Arthropoda",
                "genus": f"Genus{i % 4}" if named else "",
                "family": f"Family{i % 4}" if named else "",
            }
        )
    return write_csv(tmp_path_factory.mktemp("data") / "metadata.csv", rows)


def given(source, folder, **options):
    return TINY | RUN | {"source": str(source), "output_dir": str(folder)} | options


def run(source, folder, **options):
    """Runs the program. `options` belong to either of its two arguments."""
    given_ = given(source, folder, **options)
    return pretrain_barcodebert.main(*divide((PretrainingOptions, BarcodeTrainingArguments), given_))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_learns_and_its_encoder_opens_alone(source, tmp_path, name):
    """A k-mer of 64 costs ln 64 = 4.16 nats by guessing, and 4 genera ln 4 = 1.39."""
    options = OBJECTIVES[name]
    folder = tmp_path / "run"
    results = run(source, folder, max_steps=60, learning_rate=1e-2, save_strategy="no", eval_strategy="no", **options)
    assert results["loss_curve"][0][1] == pytest.approx(4.16, abs=0.3)
    assert results["metrics"]["validation_masked_loss_nats"] < 3.9
    whole = AutoModelForPreTraining if options.get("objective") == "mae" else AutoModelForMaskedLM
    model, found = whole.from_pretrained(folder, output_loading_info=True)
    assert type(model) is (BarcodeMaeForPreTraining if whole is AutoModelForPreTraining else BarcodeBertForMaskedLM)
    assert not found["missing_keys"] | found["unexpected_keys"]
    card = (folder / "README.md").read_text()
    assert ("BarcodeMAE](https" in card) == ("1 layers of decoder" in card) == (whole is AutoModelForPreTraining)

    encoder, tokenizer = load_encoder(str(folder))
    assert type(encoder) is BarcodeBertModel
    rows = load_barcodes(str(source), "pretrain", "split", 60, "genus")
    if "taxon_objective" not in options:
        return
    assert (results["taxon_classes"], results["labelled_training_rows"]) == (4, 48)
    assert encoder.config.pooling == "cls" and "| taxon_objective | classes |" in card
    labelled, names = label_rows(rows, "genus")
    assert names == [f"Genus{i}" for i in range(4)]
    vectors = torch.from_numpy(
        embed(encoder, tokenizer, rows.add_column("processid", list(map(str, range(64))))).embeddings
    )
    labels = torch.from_numpy(labels_of(labelled))
    right = model.eval().taxon_head(vectors).argmax(1) == labels
    assert right[labels >= 0].float().mean() > 0.9


def test_the_published_mamba_learns_to_predict_the_next_token(source, tmp_path):
    """64 3-mers and 3 special tokens, padded to 72: a guess costs ln 72 = 4.28 nats. Only k-mers are validated."""
    folder = tmp_path / "run"
    options = MAMBA | {"max_steps": 40, "learning_rate": 1e-2, "save_strategy": "no", "eval_strategy": "no"}
    results = run(source, folder, **options)
    assert results["loss_curve"][0][1] == pytest.approx(4.28, abs=0.3)
    assert results["metrics"]["validation_next_loss_nats"] < 3.5
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert type(model) is BarcodeMambaForMaskedLM and model.config.vocab_size == 72
    assert (model.config.block, model.config.pooling, model.config.objective) == ("published", "mean", "next")
    encoder, tokenizer = load_encoder(str(folder))
    assert type(encoder) is BarcodeMambaModel and tokenizer.vocabulary == "barcodemamba"
    card = (folder / "README.md").read_text()
    assert "BarcodeMamba](https" in card and "| mamba_block | published |" in card
    assert results["model"]["block"] == "published"


DROPPED = {"dropout": 0.0, "eval_strategy": "no", "save_strategy": "no"}
PARITY = {
    "mae": MAE | {"decoder_num_attention_heads": 2, "decoder_projection": "always", "decoder_intermediate_size": 24},
    "mae, weighted, classes": MAE | TAXA | BATCHES | {"loss_on": "weighted", "masked_loss_weight": 0.7},
    "masked, pairs": TAXA | BATCHES | {"taxon_objective": "pairs", "taxon_loss_weight": 0.5},
    "mae, triplet": MAE | TAXA | BATCHES | {"taxon_objective": "triplet", "taxon_rank": "family"},
    "masked, classes": TAXA | {"taxon_loss_weight": 0.2},
    "published mamba": MAMBA,
    "published mamba, single nucleotides": MAMBA | {"vocabulary": "barcodemamba-char", "k": 1},
    "published mamba, masked": MAMBA | {"objective": "masked", "loss_on": "weighted", "masked_loss_weight": 0.7},
}
HALF = {"per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def two_processes(source, tmp_path_factory):
    """Name -> folder of its run on two processes, one run after the other."""
    folder = tmp_path_factory.mktemp("two")
    runs = {name: given(source, folder / name, **SGD | DROPPED | options | HALF) for name, options in PARITY.items()}
    launch_in_turn([("pretrain_barcodebert", as_flags(options)) for options in runs.values()], folder / "launch")
    return {name: folder / name for name in PARITY}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARITY)
def test_steps_are_the_same_for_one_process_and_two(source, two_processes, tmp_path, name):
    """The same losses, gradients and weights; with accumulation too, where rows are not compared."""
    options, half = SGD | DROPPED | PARITY[name], HALF
    one, two = tmp_path / "one", two_processes[name]
    run(source, one, **options)
    assert (results_of(two)["processes"], results_of(two)["global_batch_size"]) == (2, 16)
    others = [two]
    if options.get("taxon_objective") in (None, "classes"):
        others.append(tmp_path / "accumulated")
        run(source, others[-1], gradient_accumulation_steps=2, **options | half)
    for other in others:
        same_steps(one, other, 4)
        same_weights(one, other, atol=3e-6)
    if "taxon_objective" in options:
        run(source, tmp_path / "other", **options | {"taxon_loss_weight": 3.0})
        assert losses(tmp_path / "other")[0] == losses(one)[0], "the weight is 0 at the first step"
        assert abs(losses(tmp_path / "other")[-1] - losses(one)[-1]) > 1e-2, "the loss on taxa changes nothing"


def shown(value):
    """An option as a card shows it."""
    return f"{value:,}" if type(value) is int else str(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARITY)
def test_a_run_resumes_from_its_middle_and_its_card_has_every_option(source, tmp_path, name):
    """From the checkpoint of step 2 of 4, in the first of two epochs; dropout is on, and the rank is one of names."""
    options = PARITY[name] | {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "learning_rate": 1e-2}
    options |= {"per_device_train_batch_size": 24}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(source, whole, **options)
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    run(source, resumed, resume_from_checkpoint="last", **options)
    assert len(set(losses(whole))) == 4 and history(resumed) == history(whole)
    same_weights(resumed, whole)
    card = (resumed / "README.md").read_text()
    missing = [key for key, value in PARITY[name].items() if f"| {key} | {shown(value)} |" not in card]
    assert not missing


def test_a_masked_autoencoder_is_fine_tuned(source, tmp_path):
    """Its folder is a pretrained model like any other."""
    run(source, tmp_path / "mae", eval_strategy="no", save_strategy="no", **MAE)
    options = RUN | {"source": str(source), "model": str(tmp_path / "mae"), "ranks": ["genus"]}
    options |= {"train_split": "pretrain", "validation_split": "none", "test_splits": ["none"], "max_steps": 2}
    options |= {"output_dir": str(tmp_path / "taxa"), "save_strategy": "no"}
    finetune_barcodebert.main(*divide((FinetuningOptions, BarcodeTrainingArguments), options))
    tuned, before = (AutoModel.from_pretrained(tmp_path / name) for name in ("taxa", "mae"))
    step = tuned.embeddings.position_embeddings.weight - before.embeddings.position_embeddings.weight
    assert 0 < step.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "mse"}, "--objective is 'mse'. Choose one of masked, mae, next"),
        ({"vocabulary": "bpe"}, "--vocabulary is 'bpe'. Choose one of barcodebert, barcodebert-n"),
        ({"vocabulary": "barcodemamba"}, "--mamba_block is 'plain' and --vocabulary is 'barcodemamba', but"),
        ({"backbone": "mamba", "mamba_block": "published"}, "'published' and --vocabulary is 'barcodebert', but"),
        (MAMBA | {"backbone": "bert"}, "--objective next needs --backbone mamba"),
        (MAMBA | {"backbone": "bert", "objective": "masked"}, "--mamba_block published needs --backbone mamba"),
        (MAMBA | {"mamba_block": "mlp"}, "--mamba_block is 'mlp'. Choose one of plain, published"),
        (MAMBA | {"loss_on": "valid"}, "masks nothing: leave --loss_on .given: valid. out, or give all"),
        (
            {"decoder_hidden_size": 8},
            "--decoder_hidden_size would do nothing with --objective .*: give --objective mae",
        ),
        (MAE | {"decoder_projection": "never"}, "--decoder_projection is 'never'. Choose one of always, auto"),
        (MAE | {"backbone": "mamba"}, "--objective mae does not work with --backbone mamba"),
        (MAE | {"loss_on": "valid"}, "--objective mae does not work with --loss_on valid.* Choose masked or weighted"),
        (MAE | {"vocabulary": "clibd"}, "--objective mae does not work with --vocabulary clibd"),
        (MAE | {"mask_token_id": 3}, "--objective mae does not work with --mask_token_id 3"),
        (MAE | {"decoder_hidden_size": 30}, "a width of 30 and 4 heads"),
        (
            {"taxon_rank": "family", "taxa_per_batch": 4},
            "--taxon_rank, --taxa_per_batch would do nothing: give --taxon_objective",
        ),
        (TAXA | {"taxon_objective": "names"}, "--taxon_objective is 'names'. Choose one of classes, pairs, triplet"),
        (TAXA | {"taxon_rank": "tribe"}, "--taxon_rank is 'tribe'. Choose one of"),
        (TAXA | {"vocabulary": "barcodebert"}, r"reads the \[CLS\] token \(given: --vocabulary barcodebert"),
        (TAXA | {"taxon_loss_weight": 0.0}, "--taxon_loss_weight is 0.0"),
        (TAXA | {"rows_per_taxon": 4}, "--rows_per_taxon does nothing without --taxa_per_batch"),
        (TAXA | BATCHES | {"taxa_per_batch": 6}, "18 rows of a global batch of 16"),
        (TAXA | {"taxa_per_batch": 2}, "add --similar_lengths False"),
        (TAXA | {"taxon_objective": "pairs", "gradient_accumulation_steps": 2}, "compared within one batch"),
        ({"vocabulary": "barcodebert-cls", "taxon_objective": "classes", "taxon_rank": "species"}, "no label at the"),
    ],
)
def test_options_that_do_nothing_are_refused_before_writing(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(source, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_weight_rises_over_the_epochs():
    objective = TaxonObjective("classes", "genus", 0.1, 5.0, 0, 4, 0)
    assert [objective.weight_at(epoch) for epoch in (0, 2.5, 5, 9)] == pytest.approx([0, 0.05, 0.1, 0.1])
    assert TaxonObjective("classes", "genus", 0.1, 0.0, 0, 4, 0).weight_at(0) == 0.1

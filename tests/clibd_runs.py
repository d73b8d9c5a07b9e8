"""A small CLIBD model and the options of tiny CLIBD runs, for several test files."""

import pytest
import torch
from tiny import text_tokenizer
from training_runs import RUN, as_flags, divide

from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training.clibd.options import ClibdArguments, ClibdOptions

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAINING = RUN | {
    "per_device_eval_batch_size": 64,
    "save_strategy": "no",
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "key_splits": "none",
    "train_split": "train",
}


def make_folder(folder, modalities=("image", "dna", "text"), dropout=0.0):
    """A model of random weights and its processor."""
    torch.manual_seed(0)
    vit = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    no_attention_dropout = {"attention_probs_dropout_prob": 0.0}
    configs = {
        "image": {"architecture": "vit_tiny_patch16_224", "model_args": vit},
        "dna": {"k": 4, "max_nucleotides": 120, "hidden_dropout_prob": dropout, **no_attention_dropout, **SMALL},
        "text": {"vocab_size": 139, "hidden_dropout_prob": dropout, **no_attention_dropout, **SMALL},
    }
    fields = {f"{modality}_config": configs[modality] for modality in modalities}
    config = ClibdConfig(**fields, projection_dim=16)
    ClibdModel(config).save_pretrained(folder)
    ClibdProcessor(
        make_image_processor(32),
        KmerTokenizer(k=4, max_nucleotides=120),
        text_tokenizer() if "text" in modalities else None,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("clibd") / "model")


def given(source, model, folder, **options):
    return TRAINING | {"source": str(source), "model": str(model), "output_dir": str(folder)} | options


def arguments(source, model, folder, **options):
    """What the trainer's `main` takes. `options` belong to either of its two arguments."""
    return divide((ClibdOptions, ClibdArguments), given(source, model, folder, **options))


def flags(source, model, folder, **options):
    return as_flags(given(source, model, folder, **options))

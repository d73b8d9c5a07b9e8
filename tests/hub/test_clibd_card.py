"""The card of a CLIBD model shows the numbers of its results file and no others."""

import numpy as np
import pytest
from huggingface_hub import ModelCard

from bioscan_hf.evaluation.retrieval_protocol import Specimens, evaluate_retrieval
from bioscan_hf.hub.clibd_card import clibd_card


def specimens(species, seed):
    """Photos that are at random and barcodes that tell the species."""
    random = np.random.default_rng(seed)
    barcodes = np.eye(4)[species] + random.normal(0, 0.01, (len(species), 4))
    return Specimens(
        embeddings={"image": random.normal(size=(len(species), 4)), "dna": barcodes},
        labels={"species": [f"Aus s{i}" for i in species]},
        present={name: np.ones(len(species), bool) for name in ("image", "dna")},
        ids=[f"P{i}" for i in range(len(species))],
    )


@pytest.fixture(scope="module")
def results():
    keys, queries = specimens([0, 1, 2, 3], 0), {"seen": specimens([0, 1], 1), "unseen": specimens([2, 3], 2)}
    return {
        "task": "clibd/train",
        "model": {
            "modalities": ["image", "dna"],
            "projection_dim": 24,
            "parameters": 1_234_567,
            "trained_parameters": 890,
        },
        "dataset": "/home/me/simulated",
        "splits": {"pretrain+train": 1200, "seen": 2},
        "options": {"learning_rate": 5e-05, "freeze": ["image"], "lora_rank": 0},
        "metrics": {
            "train_loss_nats": 0.12345,
            "retrieval": evaluate_retrieval(keys, queries, combinations=["dna->dna"], ranks=["species"], top_k=[1]),
        },
    }


def test_numbers_of_the_results(results):
    """Barcodes that tell the species: all right, where chance is one in four keys."""
    card = clibd_card("My CLIBD", results)
    assert "| dna->dna | species | 100.0 | 100.0 | 100.0 | 25.0 |" in card
    assert "Embeds photos and DNA barcodes of arthropods in one space of 24 dimensions" in card
    assert "1,234,567 parameters, of which 890 were trained" in card
    assert "0.1235 nats" in card and "| split sizes | pretrain+train: 1,200, seen: 2 |" in card
    assert "similarity = output.image_embeds @ output.dna_embeds.T" in card and "text=[" not in card
    data = ModelCard(card).data
    found = {(result.dataset_split, result.metric_name): result.metric_value for result in data.eval_results}
    assert found == {("seen", "dna->dna species macro top-1"): 1.0, ("unseen", "dna->dna species macro top-1"): 1.0}
    assert data.eval_results[0].dataset_name == "simulated"


def test_without_evaluation_and_of_other_results(results):
    card = clibd_card("x", results | {"metrics": {"train_loss_nats": None, "retrieval": {}}})
    assert "Not evaluated. Loss of the last logged training step: not run." in card
    with pytest.raises(ValueError, match="for the task 'clibd/train', not 'barcodebert/pretrain'"):
        clibd_card("x", results | {"task": "barcodebert/pretrain"})
    with pytest.raises(ValueError, match="have no model.projection_dim, model.trained_parameters"):
        clibd_card("x", results | {"model": {"modalities": ["dna"], "parameters": 1}})
    with pytest.raises(ValueError, match="have no metrics"):
        clibd_card("x", {key: value for key, value in results.items() if key != "metrics"})

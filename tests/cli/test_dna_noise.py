"""Embeddings of altered queries by `bioscan-hf embed --dna-noise`, and a probe of them."""

import json

import numpy as np
import pytest

from bioscan_hf.cli.main import main
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.embed import load_embeddings
from bioscan_hf.encoders.kmers import kmer_counts
from bioscan_hf.training.dna_noise import DnaNoise, add_noise


def test_probe_of_altered_queries(dataset, tmp_path, capsys):
    """References as they are, queries with errors in the same folder; the probe reads both."""
    embed = ["embed", str(dataset), str(tmp_path / "e"), "--model", "kmer:4"]
    main([*embed, "--split", "train", "--split", "key_unseen", "--json"])
    main([*embed, "--split", "test", "--split", "test_unseen", "--dna-noise", "all", "--json"])
    capsys.readouterr()
    data = load_bioscan5m(str(dataset), "dna", "test")
    altered = add_noise(data["dna_barcode"], DnaNoise())
    assert all(barcode != other for barcode, other in zip(data["dna_barcode"], altered, strict=True))
    found = load_embeddings(tmp_path / "e/test")
    expected = kmer_counts(altered, 4)
    assert found.processids == data["processid"]
    np.testing.assert_allclose(
        found.embeddings / np.linalg.norm(found.embeddings, axis=1, keepdims=True),
        expected / np.linalg.norm(expected, axis=1, keepdims=True),
        atol=1e-5,
    )
    main(["probe", str(dataset), str(tmp_path / "e"), "--json"])
    assert json.loads(capsys.readouterr().out)["metrics"]


@pytest.mark.parametrize(
    "more", [[], ["--split", "test", "--config", "cropped_256", "--model", "vitb16", "--random-weights"]]
)
def test_only_barcodes_of_named_splits(dataset, tmp_path, capsys, more):
    command = ["embed", str(dataset), str(tmp_path / "e"), "--dna-noise", "all", *more]
    with pytest.raises(SystemExit):
        main(command if "--model" in more else [*command, "--model", "kmer:4"])
    assert "give their --split, such as test" in capsys.readouterr().err

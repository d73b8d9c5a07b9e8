"""The CNN against the published network re-stated layer by layer, against its published numbers, and its training."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import batch_norm, conv2d, cross_entropy, linear, max_pool2d, one_hot

from bioscan_hf.barcodes import spell
from bioscan_hf.encoders import cnn
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.cnn import (
    BarcodeCnn,
    BarcodeCnnConfig,
    classify,
    cnn_inputs,
    convert_cnn,
    encode_letters,
    fit_cnn,
    load_cnn,
)
from bioscan_hf.encoders.embed import embed


def random_barcodes(n, seed=0, letters="ACGT", lengths=(600, 700)):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(letters), rng.integers(*lengths))) for _ in range(n)]


def plain_forward(weights, letters, training):
    """The published network, one operation after the other; batch statistics go into `weights`."""

    def normalize(x, name):
        running = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return batch_norm(x, *running, weights[f"{name}.weight"], weights[f"{name}.bias"], training)

    x = one_hot(letters.long(), 6)[..., :5].double().unsqueeze(1)  # past the end: no column, all zeros
    for i in (1, 2, 3):
        x = conv2d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], padding=(1, 0)).relu()
        x = max_pool2d(normalize(x, f"bn{i}"), (3, 1))
    features = linear(normalize(x.flatten(1), "bn4"), weights["fc1.weight"], weights["fc1.bias"])
    return linear(features.tanh(), weights["fc2.weight"], weights["fc2.bias"]), features


@pytest.fixture(scope="module")
def letters():
    """Full length, too long, short, empty, with N, and one letter alone: both edges, and every kind of place."""
    barcodes = [*random_barcodes(3), *random_barcodes(2, 1, "ACGTN"), "ACGT" * 200, "", "A" * 660, "ACGTAC", "N" * 90]
    return torch.from_numpy(encode_letters(barcodes))


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_network_layer_by_layer(letters, training):
    """Guards the look-up of bit patterns: logits, embeddings, gradients of every weight, and running statistics."""
    torch.manual_seed(0)
    model = BarcodeCnn(BarcodeCnnConfig(num_labels=4)).double().train(training)
    for name, buffer in model.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name, _ in model.named_parameters():
        weights[name].requires_grad_()
    labels = torch.arange(len(letters)) % 4
    expected, features = plain_forward(weights, letters, training)
    output = model(letters)
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(output.pooler_output, features)
    cross_entropy(expected, labels).backward()
    cross_entropy(output.logits, labels).backward()
    for name, parameter in model.named_parameters():
        assert weights[name].grad.abs().max() > 1e-6 or name == "bn3.bias", name  # bn4 takes off what that adds
        torch.testing.assert_close(parameter.grad, weights[name].grad, msg=name)
    for name, buffer in model.named_buffers():
        if name.endswith(("mean", "var")):
            torch.testing.assert_close(buffer, weights[name], msg=name)
        else:
            assert buffer == int(training), name


def test_published_numbers(reference):
    """Logits and features of the published network, computed by its own code; fc1 is stored in half precision."""
    folder = reference / "barcodebert"
    arrays = np.load(folder / "cnn_forward.npz")
    state = torch.load(folder / "cnn_state_half_fc1.pt", weights_only=True)
    model = convert_cnn({f"module.{key}": value for key, value in state.items()}, [f"taxon {i}" for i in range(7)])
    x = arrays["onehot"]
    letters = torch.from_numpy(np.where(x.any(-1), x.argmax(-1), 5))
    with torch.inference_mode():
        output = model(letters)
    np.testing.assert_allclose(output.logits, arrays["logits"], atol=1e-5)
    np.testing.assert_allclose(output.pooler_output, arrays["features_fc1_pre_tanh"], atol=1e-5)
    assert model.config.id2label[6] == "taxon 6"


def test_as_many_weights_as_published():
    """1,800,701 for the 1,653 species of the Canadian data."""
    model = BarcodeCnn(BarcodeCnnConfig(num_labels=1653))
    assert sum(weight.numel() for weight in model.parameters()) == 1_800_701


@given(st.lists(st.text(st.sampled_from("ACGTNacR-é"), max_size=700), max_size=4))
@settings(max_examples=25)
def test_letters_equal_a_loop(barcodes):
    expected = np.full((len(barcodes), 660), 5)
    for row, barcode in enumerate(barcodes):
        for place, letter in enumerate((spell(barcode) or "")[:660]):
            expected[row, place] = "ACGT".index(letter) if letter in "ACGT" else 4
    np.testing.assert_array_equal(encode_letters(barcodes), expected)


def test_missing_barcode_is_refused_by_row():
    with pytest.raises(ValueError, match="1 of 2 barcodes are missing .row 1"):
        encode_letters(["ACGT", None])


@pytest.fixture(scope="module")
def data():
    """Two classes that differ in one stretch of 60 nucleotides, and one row without a label."""
    barcodes = random_barcodes(41)
    labels = np.arange(41) % 2
    marks = ("GGGCCC" * 10, "TTTAAA" * 10)
    barcodes = [barcode[:90] + marks[label] + barcode[150:] for barcode, label in zip(barcodes, labels, strict=True)]
    labels[3] = -1
    return barcodes, labels


def test_training_learns_and_repeats(data):
    """41 rows - 1 without a label = 40 = 3 batches of 13 and a last row alone, which must not fail."""
    barcodes, labels = data
    options = {"names": ["a", "b"], "batch_size": 13, "epochs": 4}
    state = torch.random.get_rng_state()
    fit = fit_cnn(barcodes, labels, seed=1, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert fit.losses[-1] < 0.5 * fit.losses[0] and len(fit.losses) == 4 == fit.best_epoch
    assert fit.validation_accuracies == [] and not fit.model.training and fit.model.config.id2label == {0: "a", 1: "b"}
    again, other = (fit_cnn(barcodes, labels, seed=seed, **options).model.state_dict() for seed in (1, 2))
    assert all(torch.equal(weight, again[name]) for name, weight in fit.model.state_dict().items())
    assert not torch.equal(again["conv1.weight"], other["conv1.weight"])


def test_the_best_epoch_is_kept(data, monkeypatch):
    """Of three epochs the second is the most accurate, and is what two epochs alone give; the third changed it."""
    scripted = iter([0.2, 0.9, 0.9])
    monkeypatch.setattr(cnn, "_accuracy", lambda model, letters, ids: next(scripted))
    options = {"barcodes": data[0], "labels": data[1], "batch_size": 13}
    fit = fit_cnn(**options, validation=data, epochs=3)
    assert fit.best_epoch == 2 and fit.validation_accuracies == [0.2, 0.9, 0.9]
    two, three = (fit_cnn(**options, epochs=epochs).model.state_dict() for epochs in (2, 3))
    assert all(torch.equal(weight, two[name]) for name, weight in fit.model.state_dict().items())
    assert not torch.equal(two["fc1.weight"], three["fc1.weight"])


def test_validation_accuracy_is_that_of_the_kept_model(data):
    """The row without a label does not count."""
    fit = fit_cnn(*data, validation=data, batch_size=13, epochs=2)
    right = classify(fit.model, data[0], batch_size=7) == data[1]
    assert fit.validation_accuracies[fit.best_epoch - 1] == right[data[1] >= 0].mean()


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1], {}, "one for each of the 3 barcodes"),
        ([0.0, 1.0, 1.0], {}, "got float64"),
        ([0, 1, 2], {"names": ["a", "b"]}, r"between 0 and 2: allowed are -1 \(none\) to 1"),
        ([0, 0, -1], {}, "the 2 labelled rows have 1"),
        ([0, 1, 1], {"validation": (["A"], [-1])}, "No row of the validation set has a label"),
    ],
)
def test_bad_labels_are_refused(labels, options, message):
    with pytest.raises(ValueError, match=message):
        fit_cnn(["ACGT"] * 3, labels, epochs=1, **options)


def test_saved_and_loaded_by_name(tmp_path, data):
    """The same embeddings by each of its names; a barcode without a nucleotide has none."""
    model = BarcodeCnn(BarcodeCnnConfig(id2label={0: "Apis", 1: "Bombus"})).eval()
    model.bn1.running_mean.fill_(0.3)
    model.save_pretrained(tmp_path / "cnn")
    table = pa.table({"processid": ["a", "b", "c"], "dna_barcode": [*data[0][:2], "NN"]})
    expected = embed(model, cnn_inputs, table)
    assert expected.valid.tolist() == [True, True, False] and expected.embeddings.shape == (3, 500)
    assert not np.allclose(expected.embeddings[0], expected.embeddings[1])
    for loaded in (load_cnn(tmp_path / "cnn"), load_encoder(f"cnn:{tmp_path}/cnn"), load_encoder(f"{tmp_path}/cnn")):
        np.testing.assert_array_equal(embed(*loaded, table).embeddings, expected.embeddings)
        assert loaded[0].config.id2label[1] == "Bombus"


def test_weights_that_lack_one_are_refused(tmp_path):
    model = BarcodeCnn(BarcodeCnnConfig(num_labels=2))
    state = model.state_dict()
    model.save_pretrained(tmp_path / "cnn", state_dict={key: state[key] for key in state if key != "fc1.bias"})
    with pytest.raises(ValueError, match="has no weights for fc1.bias"):
        load_cnn(tmp_path / "cnn")
    shutil.rmtree(tmp_path / "cnn")
    with pytest.raises(OSError, match="No model at"):
        load_encoder(f"cnn:{tmp_path}/cnn")


def test_other_weights_are_not_converted():
    state = BarcodeCnn(BarcodeCnnConfig(num_labels=2)).state_dict()
    with pytest.raises(ValueError, match=r"These are not weights of the CNN: fc2.weight is not among bert.x"):
        convert_cnn({"bert.x": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"not weights of the CNN. .*conv1.weight.* torch.Size\(\[64, 1, 3, 1\]\)"):
        convert_cnn({**state, "conv1.weight": torch.zeros(64, 1, 3, 3)})
    with pytest.raises(ValueError, match="2 classes, but 1 names"):
        convert_cnn(state, ["Apis"])
    with pytest.raises(ValueError, match="num_labels is 1"):
        BarcodeCnn(BarcodeCnnConfig(num_labels=1))

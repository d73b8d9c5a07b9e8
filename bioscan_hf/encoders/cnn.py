"""The CNN of BarcodeBERT's comparison: model, training, conversion of published weights.

One-hot barcodes go through three blocks of convolution, ReLU, batch normalisation and max pooling along the barcode,
each letter separately; the embedding is the layer of 500 before the tanh (https://arxiv.org/abs/2311.02401).
Shape letters: n = barcodes, B = batch, C = classes, P = places of a letter, U = distinct patterns in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.utils import tqdm
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, max_pool2d, pad
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ..metrics import IGNORE, accuracy
from ..models.tokenization_kmer import barcode_bytes, rows_of_bytes, string_chunks

NUCLEOTIDES = 660
FEATURES = 500
MOMENTUM = 0.1  # of batch normalisation; torch's own
LEARNING_RATE = 1e-3  # as published

#: Every other character counts as N. The code of places past the end is `PAST_END`.
LETTERS = "ACGTN"
PAST_END = len(LETTERS)

_CODES = np.full(256, LETTERS.index("N"), np.uint8)
_CODES[list(b"ACGT")] = range(4)


@strict
class BarcodeCnnConfig(PreTrainedConfig):
    """Configuration of `BarcodeCnn`: `id2label` has its classes."""

    model_type = "barcode_cnn"


@dataclass
class BarcodeCnnOutput(ModelOutput):
    """Output of `BarcodeCnn`: `logits` (B, C), and the embedding `pooler_output` (B, 500)."""

    logits: Tensor | None = None
    pooler_output: Tensor | None = None


class BarcodeCnn(PreTrainedModel):
    """Classifier of barcodes, with the published names and shapes of weights."""

    config_class = BarcodeCnnConfig
    main_input_name = "letters"

    def __init__(self, config: BarcodeCnnConfig):
        super().__init__(config)
        num_labels = config.num_labels or 0
        if num_labels < 2:
            raise ValueError(f"num_labels is {num_labels}, but a classifier needs 2 classes or more.")
        self.conv1 = nn.Conv2d(1, 64, (3, 1), padding=(1, 0))
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 32, (3, 1), padding=(1, 0))
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 16, (3, 1), padding=(1, 0))
        self.bn3 = nn.BatchNorm2d(16)
        self.bn4 = nn.BatchNorm1d(16 * 24 * len(LETTERS))
        self.fc1 = nn.Linear(16 * 24 * len(LETTERS), FEATURES)
        self.fc2 = nn.Linear(FEATURES, num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """torch's own initialisation, as published."""
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_parameters()

    def forward(self, letters: Tensor, attention_mask: Tensor | None = None) -> BarcodeCnnOutput:
        """Logits and embeddings of barcodes, from codes of `encode_letters` (B, 660).

        The mask is not used: it tells `embed` which barcodes have a nucleotide.
        """
        x = self._two_blocks(letters)  # (B, 32, 73, 5)
        x = max_pool2d(self.bn3(self.conv3(x).relu()), (3, 1))  # (B, 16, 24, 5)
        features = self.fc1(self.bn4(x.flatten(1)))
        return BarcodeCnnOutput(logits=self.fc2(features.tanh()), pooler_output=features)

    def _two_blocks(self, letters: Tensor) -> Tensor:
        """Output of the first two blocks (B, 32, 73, 5).

        A column of a one-hot barcode is a string of bits, so the output at a place depends on 17 bits around it. It is
        computed once for each pattern of bits and looked up. On one CPU thread and a batch of 128 this takes 0.03 s
        instead of 0.29 s (inference) and 0.08 s instead of 0.71 s (training) with `nn.Conv2d`, channels last.
        """
        codes = _bit_patterns(letters)  # (B, 5, 220): the 11 input bits of place p of the second convolution
        edge = torch.zeros(220, dtype=torch.int64, device=codes.device)
        edge[0], edge[-1] = 1, 2
        counts = torch.bincount((codes + 2048 * edge).flatten(), minlength=3 * 2048)
        table = self._second_table(self._first_table(counts), counts)  # (3 * 2048, 32)
        # Pooling joins three places, which together have 17 input bits. Few patterns occur, each many times.
        first, last = codes[..., 0:219:3], codes[..., 2:219:3]
        keys = first + (last >> 5 << 11) + (edge[0:219:3] << 17)
        patterns, places = torch.unique(keys, return_inverse=True)  # (U,), (B, 5, 73)
        at_edge = 2048 * (patterns >> 17)
        rows = torch.stack([(patterns & 2047) + at_edge, patterns >> 3 & 2047, patterns >> 6 & 2047], dim=1)
        pooled = embedding(rows, table).amax(1)  # (U, 32)
        return embedding(places, pooled).permute(0, 3, 2, 1)

    def _first_table(self, counts: Tensor) -> Tensor:
        """Output of the first block for each pattern of 5 bits (32, 64)."""
        device = counts.device
        bits = torch.arange(32, device=device)[:, None] >> torch.arange(5, device=device) & 1
        windows = bits.unfold(1, 3, 1).to(self.conv1.weight.dtype)  # (32, 3 places, 3 bits)
        x = (windows @ self.conv1.weight[:, 0, :, 0].T + self.conv1.get_parameter("bias")).relu()
        middle = torch.arange(3 * 2048, device=device) >> 3 & 31
        weights = torch.zeros(32, dtype=counts.dtype, device=device).index_add_(0, middle, counts)
        x = _batch_norm(x.flatten(0, 1), weights.repeat_interleave(3), self.bn1)
        return x.unflatten(0, (32, 3)).amax(1)

    def _second_table(self, first: Tensor, counts: Tensor) -> Tensor:
        """Second block before pooling, for each pattern of 11 bits (3 * 2048, 32)."""
        taps = torch.einsum("pc,oct->tpo", first, self.conv2.weight[..., 0])  # (3, 32, 32)
        taps = pad(taps, (0, 0, 0, 1))  # row 32: outside of the barcode
        pattern = torch.arange(2048, device=counts.device)
        left, middle, right = pattern & 31, pattern >> 3 & 31, pattern >> 6
        outside = torch.full_like(pattern, 32)
        x = taps[1][middle].repeat(3, 1) + self.conv2.get_parameter("bias")
        x = x + taps[0][torch.cat([left, outside, left])] + taps[2][torch.cat([right, right, outside])]
        return _batch_norm(x.relu(), counts, self.bn2)


def encode_letters(barcodes: Sequence[str]) -> NDArray[np.uint8]:
    """Codes of the first 660 letters of each barcode, (n, 660).

    Barcodes get their one spelling. A, C, G, T and N are 0 to 4, and 5 is past the end. Every other character (IUPAC
    codes) counts as N. The published code raises an error for them.
    """
    parts = []
    for strings in string_chunks(barcodes):
        text, ends = barcode_bytes(strings)
        letters, lengths = rows_of_bytes(text, ends, np.zeros(len(strings), np.int64), NUCLEOTIDES)
        parts.append(np.where(np.arange(NUCLEOTIDES) < lengths[:, None], _CODES[letters], np.uint8(PAST_END)))
    return np.concatenate(parts)


def cnn_inputs(barcodes: Sequence[str]) -> dict[str, Tensor]:
    """Letters (B, 660), and mask (B, 1) of barcodes with a nucleotide."""
    letters = torch.from_numpy(encode_letters(barcodes))
    return {"letters": letters, "attention_mask": (letters < 4).any(1, keepdim=True).long()}


@dataclass(frozen=True)
class CnnFit:
    """A trained network and its training curve.

    Attributes:
        model: In evaluation mode, with the weights of `best_epoch`.
        losses: Mean training loss of each epoch, in nats.
        validation_accuracies: In [0, 1], of each epoch; empty without a validation set.
        best_epoch: Counted from 1.
    """

    model: BarcodeCnn
    losses: list[float]
    validation_accuracies: list[float]
    best_epoch: int


def fit_cnn(
    barcodes: Sequence[str],
    labels: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    validation: tuple[Sequence[str], ArrayLike] | None = None,
    epochs: int = 20,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> CnnFit:
    """Trains the network as published: Adam, batches of 128, 20 epochs.

    Raises ValueError for labels that are not ids of the classes, fewer than two classes, or a validation set without
    labels.

    Args:
        labels: Class ids (n,); rows with -1 are left out.
        names: Names of the classes. By default the largest id sets their number.
        validation: Barcodes and class ids. The epoch with the best accuracy on them is kept; without them, the last.
        seed: Of the initial weights and the order of the rows. On the CPU the same seed gives the same weights.
    """
    letters, targets = _training_set(barcodes, labels, names)
    if validation is not None and (np.asarray(validation[1]) == IGNORE).all():
        raise ValueError("No row of the validation set has a label, so the best epoch is unknown.")
    config = BarcodeCnnConfig(id2label=_id2label(names, int(targets.max()) + 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BarcodeCnn(config)
        orders = [torch.randperm(len(targets)) for _ in range(epochs)]
    cast(nn.Module, model).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses: list[float] = []
    accuracies: list[float] = []
    best: Mapping[str, Tensor] = {}
    for order in tqdm(orders, desc="Training the CNN", unit=" epochs", delay=2):
        model.train()
        total = 0.0
        for batch in _batches(order, batch_size):
            loss = cross_entropy(model(letters[batch].to(device)).logits, targets[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(order))
        if validation is not None:
            accuracies.append(_accuracy(model, *validation))
            if accuracies[-1] > max(accuracies[:-1], default=-1.0):
                best = {name: weight.clone() for name, weight in model.state_dict().items()}
    if best:
        model.load_state_dict(best)
    return CnnFit(model.eval(), losses, accuracies, 1 + int(np.argmax(accuracies)) if accuracies else epochs)


def classify(model: BarcodeCnn, barcodes: Sequence[str], batch_size: int = 512) -> NDArray[np.int64]:
    """Most probable class of each barcode (n,), in evaluation mode."""
    model.eval()
    letters = torch.from_numpy(encode_letters(barcodes))
    with torch.inference_mode():
        parts = [model(part.to(model.device)).logits.argmax(1) for part in letters.split(batch_size)]
    return torch.cat(parts).cpu().numpy()


def load_cnn(folder: str | Path, **hub: Any) -> tuple[BarcodeCnn, Any]:
    """Model and processor for `embed`, from a folder of `save_pretrained` or the Hub."""
    loaded: Any = BarcodeCnn.from_pretrained(folder, output_loading_info=True, **hub)
    model, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"{str(folder)!r} has no weights for {', '.join(sorted(info['missing_keys']))}.")
    return model.eval(), cnn_inputs


def convert_cnn(state: Mapping[str, Tensor], names: Sequence[str] | None = None) -> BarcodeCnn:
    """The network of a published state dict, in float32.

    `names` are those of the classes, which the file does not contain. Raises ValueError for weights of another
    network, or fewer names than classes.
    """
    weights = {key.removeprefix("module."): value for key, value in state.items()}
    if "fc2.weight" not in weights:
        found = ", ".join(list(weights)[:5]) or "nothing"
        raise ValueError(f"These are not weights of the CNN: fc2.weight is not among {found}.")
    model = BarcodeCnn(BarcodeCnnConfig(id2label=_id2label(names, len(weights["fc2.weight"]))))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"These are not weights of the CNN. {' '.join(str(error).split())}") from error
    return model.eval()


def _bit_patterns(letters: Tensor) -> Tensor:
    """Bits 3p - 4 to 3p + 6 of each letter for place p (B, 5, 220)."""
    one_hot = letters[:, None, :] == torch.arange(len(LETTERS), device=letters.device)[:, None]
    bits = pad(one_hot.to(torch.int32), (4, 4))  # (B, 5, 668)
    codes = torch.zeros_like(bits[..., :220])
    for place in range(11):
        codes += bits[..., place : place + 658 : 3] << place
    return codes.long()


def _batch_norm(x: Tensor, counts: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation of a batch that holds row i of `x` `counts[i]` times."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    if norm.training:
        total = counts.sum()
        weights = counts.to(x.dtype) / total
        batch_mean = weights @ x
        batch_variance = weights @ (x - batch_mean).square()
        with torch.no_grad():
            mean.lerp_(batch_mean, MOMENTUM)
            variance.lerp_(batch_variance * total / (total - 1), MOMENTUM)
            norm.get_buffer("num_batches_tracked").add_(1)
        mean, variance = batch_mean, batch_variance
    return (x - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias


def _training_set(barcodes: Sequence[str], labels: ArrayLike, names: Sequence[str] | None) -> tuple[Tensor, Tensor]:
    """Letters and class ids of the labelled rows."""
    ids = np.asarray(labels)
    if ids.shape != (len(barcodes),) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"labels must be class ids, one for each of the {len(barcodes)} barcodes (-1 for none); "
            f"got {ids.dtype} of shape {ids.shape}. Turn names into ids with LabelMaps.encode."
        )
    highest = np.inf if names is None else len(names) - 1
    if ids.size and (ids.min() < IGNORE or ids.max() > highest):
        raise ValueError(f"labels lie between {ids.min()} and {ids.max()}: allowed are -1 (none) to {highest}.")
    keep = np.flatnonzero(ids != IGNORE)
    if len(np.unique(ids[keep])) < 2:
        found = len(np.unique(ids[keep]))
        raise ValueError(f"A classifier needs two or more classes, but the {len(keep)} labelled rows have {found}.")
    letters = encode_letters([barcodes[int(row)] for row in keep])
    return torch.from_numpy(letters), torch.from_numpy(ids[keep].astype(np.int64))


def _id2label(names: Sequence[str] | None, classes: int) -> dict[int, str]:
    if names is not None and len(names) < classes:
        raise ValueError(f"There are {classes} classes, but {len(names)} names.")
    return dict(enumerate(names if names is not None else [f"LABEL_{i}" for i in range(classes)]))


def _batches(order: Tensor, size: int) -> list[Tensor]:
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:  # a single row cannot be batch-normalised
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _accuracy(model: BarcodeCnn, barcodes: Sequence[str], ids: ArrayLike) -> float:
    result = accuracy(classify(model, barcodes), ids)["micro_accuracy"]
    assert result is not None  # fit_cnn raises an error for a validation set without labels
    return result

"""Runs an encoder over barcodes or photos in batches, for `embed`.

Work that does not change the result is left out: an equal barcode is computed once, barcodes of one length go
together, padding is cut off, and a mask without zeros is not passed.
Shape letters: n = rows, B = batch, L = tokens, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..progress import Progress, silent
from ..search.vectors import slices

#: This many batches are tokenized together, and sorted by length where that allows padding to be cut off.
BATCHES_IN_WINDOW = 16

#: Bytes of the vectors of earlier barcodes that are kept. The oldest are dropped first.
REMEMBERED_BYTES = 1 << 28

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}

#: Barcode -> its embedding (D,), and whether it has a whole token.
Known = dict[str, tuple[NDArray[np.float32], bool]]


@runtime_checkable
class ColumnTokenizer(Protocol):
    """A tokenizer of whole columns, such as `KmerTokenizer`."""

    def encode_column(self, column: Any, offset: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids and attention mask, both (n, L)."""


def resolve_dtype(model: nn.Module, dtype: str) -> torch.dtype:
    """Precision in which `embed` computes; ValueError for an unknown dtype."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown. There are {', '.join(DTYPES)}.")
    return DTYPES[dtype] or (torch.bfloat16 if device_of(model).type == "cuda" else torch.float32)


def embed_barcodes(
    model: nn.Module,
    processor: Callable[..., Any],
    barcodes: Sequence[str],
    *,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    known: Known | None = None,
    progress: Progress = silent,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Embeddings (n, D) of barcodes or texts, and their validity (n,).

    A barcode without a whole token is not valid, and its vector is zeros. Call it within `inference(model)`. Raises
    ValueError if the model or the processor does not give a row for each barcode.

    Args:
        known: Embeddings of earlier barcodes, which are not computed again. Those of this call are added.
        progress: Called with "embedding", the rows done, and n.
    """
    known = {} if known is None else known
    distinct = list(dict.fromkeys(barcodes))
    here = {barcode: known[barcode] for barcode in distinct if barcode in known}
    new = [barcode for barcode in distinct if barcode not in here]
    for rows, vectors, valid in _windows(model, processor, new, batch_size, dtype):
        here |= zip(new[rows], zip(vectors, valid.tolist(), strict=True), strict=True)
        progress("embedding", rows.stop, len(barcodes))
    progress("embedding", len(barcodes), len(barcodes))
    found = [here[barcode] for barcode in barcodes]
    _remember(known, here, new)
    return np.stack([vector for vector, _ in found]), np.array([whole for _, whole in found], np.bool_)


def embed_photos(
    model: nn.Module,
    processor: Callable[..., Any],
    batches: Iterable[tuple[Sequence[str], Sequence[bytes]]],
    *,
    dtype: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Embeddings (n, D) of photos; a GPU computes while others are decoded.

    Call it within `inference(model)`. `progress` is called with "embedding", the photos done, and None. Raises
    ValueError if the model does not give a row for each photo.

    Args:
        processor: `processor(photos, names)` gives the model's inputs.
        batches: (names, photos) of each batch. The names are used in errors.
    """
    outputs: list[Tensor] = []
    done = 0
    for names, photos in batches:
        inputs = {name: torch.as_tensor(x) for name, x in processor(photos, names).items()}
        outputs.append(_forward(model, inputs, dtype, "photos"))
        if len(outputs[-1]) != len(photos):
            raise ValueError(f"The processor gave {len(outputs[-1])} rows for {len(photos)} photos.")
        done += len(photos)
        progress("embedding", done, None)
    return torch.cat(outputs).cpu().numpy()


def _remember(known: Known, here: Known, new: list[str]) -> None:
    for barcode in new:
        vector, whole = here[barcode]
        known[barcode] = (vector.copy(), whole)  # a view would keep its whole window in memory
    if known:
        most = max(1, REMEMBERED_BYTES // next(iter(known.values()))[0].nbytes)
        for oldest in list(known)[: max(0, len(known) - most)]:
            del known[oldest]


def _windows(
    model: nn.Module, processor: Callable[..., Any], barcodes: list[str], batch_size: int, dtype: torch.dtype
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
    """Rows of a window, their vectors, and which are valid."""
    size = batch_size * BATCHES_IN_WINDOW if isinstance(processor, ColumnTokenizer) else batch_size

    def sent() -> Iterator[Any]:
        for rows in slices(len(barcodes), size):
            inputs, whole = encode(processor, barcodes[rows])
            outputs, order = _window(model, processor, inputs, batch_size, dtype)
            yield rows, *_on_the_way(outputs), order, whole
        yield None

    # A window is awaited after the next one has been sent, so that tokenizing does not delay the device.
    for (rows, outputs, arrived, order, whole), _ in pairwise(sent()):
        arrived()
        vectors = torch.empty(outputs.shape)
        vectors[order] = outputs
        vectors[~whole] = 0
        yield rows, vectors.numpy(), whole.numpy()


def _on_the_way(outputs: Tensor) -> tuple[Tensor, Callable[[], Any]]:
    """Outputs on the CPU, valid after a call of the function. Work that is sent later does not delay the copy."""
    if not outputs.is_cuda:
        return outputs.cpu(), lambda: None
    copy, done = outputs.to("cpu", non_blocking=True), torch.cuda.Event()
    done.record(torch.cuda.current_stream(outputs.device))
    return copy, done.synchronize


def _window(
    model: nn.Module, processor: Callable[..., Any], inputs: dict[str, Tensor], batch_size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Vectors on the device, and the row of each."""
    n, lengths = len(next(iter(inputs.values()))), None
    order = torch.arange(n)
    if isinstance(processor, ColumnTokenizer) and pools_by_mask(model):
        mask = inputs["attention_mask"]
        lengths = (mask.ne(0) * torch.arange(1, mask.shape[1] + 1)).amax(1)  # number of the last attended token
        order = lengths.argsort(descending=True, stable=True)
    outputs = []
    for rows in order.split(batch_size):
        batch = {name: x[rows] for name, x in inputs.items()}
        if lengths is not None:
            # Tokens after the last attended one of the batch are cut off; a mask without zeros is left out.
            batch = {name: x[:, : max(1, int(lengths[rows].max()))] for name, x in batch.items()}
            if batch["attention_mask"].all():
                del batch["attention_mask"]
        outputs.append(_forward(model, batch, dtype))
    return torch.cat(outputs), order


#: Poolings of our models that read attended tokens only.
MASKED_POOLINGS = ("masked_mean", "cls", "tokens")


def encode(processor: Callable[..., Any], barcodes: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of the model, and which barcodes (B,) have a token."""
    added = 0  # tokens that a tokenizer adds to every barcode
    if isinstance(processor, ColumnTokenizer):
        ids, mask = processor.encode_column([*barcodes, ""])
        added = int(mask[-1].sum())
        encoded: Mapping[str, Any] = {"input_ids": ids[:-1], "attention_mask": mask[:-1]}
    elif isinstance(processor, PreTrainedTokenizerBase):
        encoded = processor(barcodes, return_tensors="pt")
        added = len(processor("")["input_ids"])
    else:
        encoded = processor(barcodes)
    inputs = {name: torch.as_tensor(x) for name, x in encoded.items()}
    for name, x in inputs.items():
        if len(x) != len(barcodes):
            raise ValueError(f"The processor gave {name} of shape {tuple(x.shape)} for {len(barcodes)} barcodes.")
    if "attention_mask" in inputs:
        return inputs, inputs["attention_mask"].sum(1) > added
    return inputs, torch.tensor([len(barcode) > 0 for barcode in barcodes])


def _forward(model: nn.Module, batch: dict[str, Tensor], dtype: torch.dtype, what: str = "barcodes") -> Tensor:
    device, size = device_of(model), len(next(iter(batch.values())))
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        vectors = model(**{name: x.to(device) for name, x in batch.items()}).pooler_output
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != size:
        found = tuple(vectors.shape) if isinstance(vectors, Tensor) else vectors
        raise ValueError(f"{type(model).__name__} gave the pooler_output {found} for {size} {what}, not ({size}, D).")
    return vectors.float()


def pools_by_mask(model: nn.Module) -> bool:
    """Whether padding changes no embedding, so it can be cut."""
    return isinstance(model, PreTrainedModel) and model.config.to_dict().get("pooling") in MASKED_POOLINGS


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's weights; the CPU for a model without any."""
    weight = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if weight is None else weight.device


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients. Afterwards each module has its training flag back."""
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, flag in training:
            module.training = flag

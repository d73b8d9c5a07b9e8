"""Gradient caching: embeddings of a large batch with the activations of a small one in memory.

Activations are recomputed, chunk by chunk, in the backward pass, as in GradCache (https://arxiv.org/abs/2101.06983).
torch's checkpoints do it, so the Trainer's autocast, loss scaling, accumulation and averaging over processes work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint


def cached_embeddings(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    rows_at_a_time: int,
    *,
    prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Outputs of `model(**inputs)` by name, with the activations of a few rows at a time in memory.

    The gradient takes a second forward pass with the same random numbers (dropout). `model` may be wrapped in
    DistributedDataParallel; gradients are averaged once, at the end of `backward`. For example::

        outputs = cached_embeddings(model, batch, rows_at_a_time=64)
        loss = contrastive_loss(
            {"image": outputs["image_embeds"], "dna": outputs["dna_embeds"]}, outputs["logit_scale"], chunk_size=1024
        )
        loss.backward()

    Args:
        model: Returns a mapping and treats rows independently (no batch normalization in training).
        inputs: Name -> (B, ...), for B rows.
        prepare: Makes the model's inputs from a chunk of `inputs`, such as normalized photos from uint8. It is called
            again for the gradient, so its result is not kept in memory.

    Returns:
        Name -> (B, ...), without None values. Scalars, such as logit_scale, are those of the last chunk.

    Raises:
        ValueError: for no inputs, inputs without rows or of unequal length, and for less than one row at a time.
    """
    lengths = {name: len(values) for name, values in inputs.items()}
    if not any(lengths.values()):
        raise ValueError(f"There are no rows to embed (lengths of the inputs: {lengths}). Give 1 row or more.")
    if len(set(lengths.values())) != 1:
        raise ValueError(f"The inputs have the lengths {lengths}; give the same number of rows.")
    if rows_at_a_time < 1:
        raise ValueError(f"rows_at_a_time is {rows_at_a_time}; give 1 row or more.")
    # The second pass runs within `backward`, where the forward of the wrapper would restart its averaging.
    running = [model]

    @contextmanager
    def second_pass() -> Iterator[None]:
        running.append(model.module if isinstance(model, DistributedDataParallel) else model)
        try:
            yield
        finally:
            running.pop()

    def run(chunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = chunk if prepare is None else prepare(chunk)
        return {name: value for name, value in running[-1](**given).items() if value is not None}

    parts: list[dict[str, Tensor]] = []
    for start in range(0, max(lengths.values()), rows_at_a_time):
        chunk = {name: values[start : start + rows_at_a_time] for name, values in inputs.items()}
        parts.append(checkpoint(run, chunk, use_reentrant=False, context_fn=lambda: (nullcontext(), second_pass())))
    return {
        name: torch.cat([part[name] for part in parts]) if last.dim() else last for name, last in parts[-1].items()
    }

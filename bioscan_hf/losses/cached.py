"""Embeddings of a large batch in the memory of a small one: activations are computed again for the gradient.

A contrastive loss needs the embeddings of all rows at once, but their activations only row by row: they are dropped
and computed again, chunk by chunk, when the gradient of the embeddings is known. This is what GradCache does
(https://arxiv.org/abs/2101.06983), here by checkpoints: the loss stays an ordinary one, whose `backward` belongs to
whoever calls it, such as the Trainer, with its autocast, loss scaling, accumulation and averaging over processes.

Shape letters: B = rows, E = embedding size.
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
    """What `model(**inputs)` returns, each tensor by name, with the activations of a few rows at a time in memory.

    The gradient takes a second forward pass, with the same random numbers (dropout). Embeddings, inputs and parameters
    stay in memory. `model` may be wrapped in DistributedDataParallel; gradients are averaged once, at the end of
    `backward`. For example::

        outputs = cached_embeddings(model, batch, rows_at_a_time=64)
        loss = contrastive_loss(
            {"image": outputs["image_embeds"], "dna": outputs["dna_embeds"]}, outputs["logit_scale"], chunk_size=1024
        )
        loss.backward()

    Args:
        model: Treats each row by itself (no batch normalisation in training), and returns a mapping.
        inputs: Name -> (B, ...).
        rows_at_a_time: Rows that go through the model together.
        prepare: What the model reads, made of a part of the inputs, such as normalised photos of uint8 ones; it is
            called for these rows alone, and once again for the gradient, so that what it makes is not kept either.

    Returns:
        Name -> (B, ...), without what is None; a number that is not one for each row, as the logit_scale, is that of
        the last rows.

    Raises:
        ValueError: for inputs of unequal length or none, and for less than one row at a time.
    """
    lengths = {name: len(values) for name, values in inputs.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"The inputs have the lengths {lengths}, but need the same number of rows.")
    if rows_at_a_time < 1:
        raise ValueError(f"rows_at_a_time is {rows_at_a_time}: give a number of rows from 1 on.")
    # The second pass lies within `backward`, where the wrapper's forward would begin its averaging anew.
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
    for start in range(0, next(iter(lengths.values())), rows_at_a_time):
        chunk = {name: values[start : start + rows_at_a_time] for name, values in inputs.items()}
        parts.append(checkpoint(run, chunk, use_reentrant=False, context_fn=lambda: (nullcontext(), second_pass())))
    return {
        name: torch.cat([part[name] for part in parts]) if last.dim() else last for name, last in parts[-1].items()
    }

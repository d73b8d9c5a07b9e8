"""Inverse temperature and bias of the similarities of CLIBD. Uploaded to the Hub beside the weights.

They have the shape (1,), because FSDP cannot shard parameters without dimensions.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter


class LogitScale(nn.Module):
    """Inverse temperature. It is a module because adapters can train modules, but not single parameters."""

    def __init__(self, initial: float, maximum: float | None):
        super().__init__()
        self.initial, self.max = initial, maximum
        self.log_scale = nn.Parameter(torch.full((1,), initial))

    def forward(self) -> torch.Tensor:
        """The inverse temperature, a scalar."""
        if self.max is None:
            return self.log_scale.exp().sum()
        if self.training:  # changes the parameter, because above the maximum a clamp has no gradient
            self.limit()
            return self.log_scale.exp().sum()
        return self.log_scale.exp().clamp(max=self.max).sum()

    @torch.no_grad()
    def limit(self) -> None:
        """Sets the parameter to the maximum if it is above."""
        if self.max is not None:
            self.log_scale.clamp_(max=math.log(self.max))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        with_dimension(state_dict, f"{prefix}log_scale")
        super()._load_from_state_dict(state_dict, prefix, *args)


class LogitBias(nn.Module):
    """Learned bias of the similarities, for the loss of SigLIP."""

    def __init__(self, initial: float):
        super().__init__()
        self.initial = initial
        self.bias = nn.Parameter(torch.full((1,), initial))

    def forward(self) -> torch.Tensor:
        """The bias, a scalar."""
        return self.bias.clone().sum()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        with_dimension(state_dict, f"{prefix}bias")
        super()._load_from_state_dict(state_dict, prefix, *args)


def with_dimension(state: dict[str, Any], key: str) -> None:
    """Gives a weight of the shape () the shape (1,), in place: version 0.1 saved scalars."""
    if key in state and not state[key].ndim:
        state[key] = state[key].reshape(1)


class WithDimension(ConversionOps):
    """`with_dimension` for `from_pretrained`; also the reverse, because new files keep the dimension."""

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights with one dimension or more."""
        return {
            key: torch.atleast_1d(found[0] if isinstance(found, list) else found) for key, found in input_dict.items()
        }

    @property
    def reverse_op(self) -> ConversionOps:
        return self


conversion_mapping.register_checkpoint_conversion_mapping(
    "clibd",
    [WeightConverter(key, key, [WithDimension()]) for key in ("logit_scale.log_scale", "logit_bias.bias")],
    overwrite=True,
)

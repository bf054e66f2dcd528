"""What does each token compute on its own? activation(x W_in) W_out, optionally gated."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.config import Activation, TransformerConfig
from model.sites import Site

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "tanh": torch.tanh,
}


class FeedForward(nn.Module):
    """post = activation(pre) [· pre_linear], mlp_out = post W_out + b_out.

    Plain: pre = x W_in. Gated (Shazeer 2020): pre = x W_gate, pre_linear = x W_in.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation, self.dropout = ACTIVATIONS[config.activation], config.dropout.mlp
        self.W_gate = nn.Linear(config.d_model, config.d_mlp, bias=config.mlp_bias) if config.gated else None
        self.W_in = nn.Linear(config.d_model, config.d_mlp, bias=config.mlp_bias)
        self.pre = Site("pre")
        self.pre_linear = Site("pre_linear") if config.gated else None
        self.post = Site("post")
        self.W_out = nn.Linear(config.d_mlp, config.d_model, bias=config.mlp_bias)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        if self.W_gate is None:
            post = self.activation(self.pre(self.W_in(x)))  # batch pos d_mlp
        else:
            post = self.activation(self.pre(self.W_gate(x))) * self.pre_linear(self.W_in(x))
        return self.W_out(F.dropout(self.post(post), self.dropout, self.training))

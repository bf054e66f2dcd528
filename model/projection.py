"""How does a vector become one vector per head?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class HeadProjection(nn.Linear):
    """x Wᵀ + b, cut into heads.

    The weight is [head·d_head, d_model]. Checkpoints that keep query, key and value of each head together (GPT-NeoX, BLOOM)
    have the rows of one head side by side, but not those of the next: the view of such a fused matrix is
    [head d_head d_model], its bias [head d_head]. Each head is then a product of its own, so that the view is used as it lies
    in memory and nothing is copied, neither to keep nor for a backward pass.
    """

    def __init__(self, d_model: int, n_heads: int, d_head: int, *, bias: bool) -> None:
        super().__init__(d_model, n_heads * d_head, bias=bias)
        self.n_heads, self.d_head = n_heads, d_head

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        if self.weight.dim() == 2:
            return super().forward(x).unflatten(-1, (self.n_heads, self.d_head))
        rows = x.flatten(0, 1).expand(self.n_heads, -1, -1)  # head batch·pos d_model
        heads = torch.bmm(rows, self.weight.mT)  # head batch·pos d_head
        heads = heads.transpose(0, 1).unflatten(0, x.shape[:2])
        return heads if self.bias is None else heads + self.bias

    def fits(self, name: str, shape: torch.Size) -> bool:
        """Can a tensor of that shape be the `weight` or the `bias`?"""
        rest = (self.in_features,) if name == "weight" else ()
        return tuple(shape) in ((self.out_features, *rest), (self.n_heads, self.d_head, *rest))

"""How is the residual stream normalised before it is read? Layer norm and RMS norm, each as scale, normalized, gain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.config import TransformerConfig
from model.sites import Site


class Norm(nn.Module):
    """y = gain · (x − mean) / scale + bias (Ba et al. 2016); RMS norm drops the mean and the bias (Zhang & Sennrich 2019).

    `scale` is √(mean square + eps) per position, `normalized` the value before the gain. Statistics are taken in fp32
    at least. While neither is observed, torch's fused kernel computes the same in one step.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.centred = config.norm == "layer"
        self.eps = config.norm_eps
        self.scale = Site("scale")
        self.normalized = Site("normalized")
        self.gain = nn.Parameter(torch.ones(config.d_model))
        self.bias = nn.Parameter(torch.zeros(config.d_model)) if self.centred else None

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        if not (self.scale.observed or self.normalized.observed):
            return self._fused(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centred:
            exact = exact - exact.mean(-1, keepdim=True)
        scale = self.scale((exact.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())  # batch pos 1
        normalized = self.normalized((exact / scale).to(x.dtype))
        y = normalized * self.gain
        return y if self.bias is None else y + self.bias

    def _fused(self, x: Tensor) -> Tensor:
        if self.centred:
            return F.layer_norm(x, (x.shape[-1],), self.gain, self.bias, self.eps)
        return F.rms_norm(x, (x.shape[-1],), self.gain, self.eps)

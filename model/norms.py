"""How is a vector normalised before it is read? Layer norm, RMS norm and batch norm, each as scale, normalized, gain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.config import TransformerConfig
from model.sites import Site


class Norm(nn.Module):
    """y = gain · (x − mean) / scale + bias over the last axis (Ba et al. 2016).

    RMS norm drops the mean and the bias (Zhang & Sennrich 2019).
    `scale` is √(mean square + eps) per position, `normalized` the value before the gain. Statistics are taken in fp32
    at least. While neither is observed, torch's fused kernel computes the same in one step. `axes` are those of what is
    normed; `width` its last one.
    """

    def __init__(
        self, config: TransformerConfig, width: int | None = None, axes: tuple[str, ...] = ("batch", "pos", "d_model"), kind: str = ""
    ) -> None:
        super().__init__()
        width = width or config.d_model
        self.centred = (kind or config.norm) == "layer"
        self.eps, self.gain_offset = config.norm_eps, config.gain_offset
        self.scale = Site("scale", (*axes[:-1], "1"))
        self.normalized = Site("normalized", axes)
        self.gain = nn.Parameter(torch.full((width,), 1.0 - self.gain_offset))
        self.bias = nn.Parameter(torch.zeros(width)) if self.centred and config.norm_bias else None

    def forward(self, x: Float[Tensor, "... width"], real: Tensor | None = None) -> Float[Tensor, "... width"]:
        if not (self.scale.observed or self.normalized.observed):
            return self._fused(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centred:
            exact = exact - exact.mean(-1, keepdim=True)
        scale = self.scale((exact.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())  # … 1
        normalized = self.normalized((exact / scale).to(x.dtype))
        y = normalized * self._gain()
        return y if self.bias is None else y + self.bias

    def _gain(self) -> Tensor:
        return self.gain + self.gain_offset if self.gain_offset else self.gain

    def _fused(self, x: Tensor) -> Tensor:
        if self.centred:
            return F.layer_norm(x, (x.shape[-1],), self._gain(), self.bias, self.eps)
        return F.rms_norm(x, (x.shape[-1],), self._gain(), self.eps)


class BatchNorm(nn.Module):
    """y = gain · (x − mean) / √(variance + eps) + bias per coordinate, over the real tokens of the batch (Ioffe & Szegedy 2015).

    While training, every token's value depends on the others, later ones included; in evaluation running statistics are
    used. There is no scale per position, so no `scale` site.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps, self.momentum = config.norm_eps, 0.1
        self.normalized = Site("normalized")
        self.gain = nn.Parameter(torch.ones(config.d_model))
        self.bias = nn.Parameter(torch.zeros(config.d_model)) if config.norm_bias else None
        self.register_buffer("mean", torch.zeros(config.d_model))
        self.register_buffer("variance", torch.ones(config.d_model))

    def forward(self, x: Float[Tensor, "batch pos d_model"], real: Tensor | None = None) -> Float[Tensor, "batch pos d_model"]:
        mean, variance = self.mean, self.variance
        if self.training:
            seen = x.flatten(0, 1) if real is None else x[real]  # tokens d_model
            mean, variance = seen.mean(0), seen.var(0, unbiased=False)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(seen.var(0, unbiased=True) if len(seen) > 1 else variance, self.momentum)
        normalized = self.normalized((x - mean) * (variance + self.eps).rsqrt())
        y = normalized * self.gain
        return y if self.bias is None else y + self.bias


class NoNorm(nn.Module):
    """The value as it is."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        return x


def make_norm(config: TransformerConfig) -> nn.Module:
    """The norm of the residual stream that the config chooses."""
    if config.norm == "none":
        return NoNorm()
    return BatchNorm(config) if config.norm == "batch" else Norm(config)

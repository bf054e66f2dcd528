"""Are two heads alike? How far apart their patterns are, and how much the subspaces overlap that they read from or write into."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.statistics._view import Pattern, View

CAUSAL = View()


def pattern_divergence(pattern: Pattern, view: View = CAUSAL) -> Float[Tensor, "batch head head"]:
    """Jensen-Shannon divergence between the rows of every two heads, mean over the real queries that see at least two keys; nats, from 0 to ln 2.

    JS(a, b) = H((a + b)/2) − (H(a) + H(b))/2 with H the entropy of a row (Lin 1991; between heads, Clark et al. 2019, section 4.4).
    NaN for an example without such a query.

    >>> patterns = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]])
    >>> pattern_divergence(patterns)[0, 0]
    tensor([0.0000, 0.6931, 0.0000])
    """
    alpha = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
    rows = (view.visible(pattern).sum(-1) >= 2)[:, 0].expand(len(pattern), -1)  # batch query
    entropy = torch.special.entr(alpha).sum(-1)  # batch head query
    heads = range(alpha.shape[1])
    found = [_divergence(alpha, entropy, h).masked_fill(~rows[:, None], torch.nan).nanmean(-1) for h in heads]
    return torch.stack(found, dim=1)


def _divergence(alpha: Pattern, entropy: Float[Tensor, "batch head query"], h: int) -> Float[Tensor, "batch head query"]:
    """Of head h from all heads: one head at a time, so that memory does not grow with their square."""
    together = torch.special.entr((alpha + alpha[:, h : h + 1]) / 2).sum(-1)
    return (together - (entropy + entropy[:, h : h + 1]) / 2).clamp(min=0.0)


def subspace_overlap(weights: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head head"]:
    """tr(P_a P_b) / d_head of every two heads, P the projection onto the span of a head's rows: 1 where two span the same, 0 where nothing is common.

    The mean squared cosine of the principal angles (Björck & Golub 1973). Random subspaces have d_head / d_model on average. `W_O` gives
    what heads write into; `W_Q.mT`, `W_K.mT`, `W_V.mT` what they read from. Rows that are not independent count as far as they span.

    Raises ValueError for heads wider than the model.

    >>> axes = torch.eye(4)
    >>> subspace_overlap(torch.stack([axes[:2], axes[1:3], 3 * axes[:2]]))[0]
    tensor([1.0000, 0.5000, 1.0000])
    """
    _, d_head, d_model = weights.shape
    if d_head > d_model:
        raise ValueError(f"the rows of a head span a subspace of the stream, got d_head={d_head}, d_model={d_model}")
    u, s, v = torch.linalg.svd(weights.double(), full_matrices=False)  # v: head d_head d_model
    spanned = s > s.amax(-1, keepdim=True) * d_model * torch.finfo(weights.dtype).eps
    basis = v * spanned.unsqueeze(-1)
    return torch.einsum("aed,bfd->abef", basis, basis).square().sum((-2, -1)).to(weights.dtype) / d_head

"""What would the model say if it stopped here? The logit lens: every residual stream through the final norm and unembedding."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.observable import Steppable


@dataclasses.dataclass(frozen=True)
class LogitLens:
    """The next-token distribution p_l read off the residual stream after l blocks, l = 0 … n_layers (the axis `state`).

    `kl` is KL(p_final ‖ p_l) in nats (Belrose et al. 2023), `top_token` the most probable token of p_l,
    `top_probability` its probability, `agrees` whether it is also the most probable of p_final.
    """

    kl: Float[Tensor, "state batch pos"]
    top_token: Int[Tensor, "state batch pos"]
    top_probability: Float[Tensor, "state batch pos"]

    @property
    def agrees(self) -> Tensor:
        """Bool[state batch pos]."""
        return self.top_token == self.top_token[-1]


def logit_lens(model: Steppable, *inputs: Tensor | None) -> LogitLens:
    """The logit lens (nostalgebraist 2020) of every position; the last state is the model's own answer.

    The model's states must be frozen dataclasses with a `resid`. One state's logits exist at a time, beside the final
    ones. In early layers the streams are often written in another basis than the one that the unembedding reads: a
    large divergence there does not show that the model knows nothing.

    >>> from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> lens = logit_lens(model, torch.tensor([[1, 2, 3]]))
    >>> lens.kl.shape, lens.kl[-1].tolist(), bool(lens.agrees[-1].all())
    (torch.Size([3, 1, 3]), [[0.0, 0.0, 0.0]], True)
    """
    with torch.no_grad():
        state = model.start(*inputs)
        streams = [state.resid]
        for i in range(model.n_layers):
            state = model.step(state, i)
            streams.append(state.resid)
        final = _logits(model.finish(state)).log_softmax(-1)
        answers = [_compared(_logits(model.finish(dataclasses.replace(state, resid=resid))), final.exp(), final) for resid in streams[:-1]]
        best = final.max(-1)
        answers.append((torch.zeros_like(best.values), best.indices, best.values.exp()))
    return LogitLens(*(torch.stack(column) for column in zip(*answers, strict=True)))


def _logits(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _compared(logits: Tensor, expected: Tensor, log_expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL, top token and its probability, without writing out the distribution: the vocabulary is the largest axis there is."""
    normaliser = logits.logsumexp(-1)  # batch pos
    best = logits.max(-1)
    cross_entropy = normaliser - (expected.unsqueeze(-2) @ logits.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    negative_entropy = (expected.unsqueeze(-2) @ log_expected.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    kl = (cross_entropy + negative_entropy).clamp(min=0)
    return kl, best.indices, (best.values - normaliser).exp()

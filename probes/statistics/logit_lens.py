"""What would the model say if it stopped here? The logit lens: every residual stream through the final norm and unembedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.observable import Steppable
from probes.record import record


@dataclasses.dataclass(frozen=True)
class LogitLens:
    """The distribution p_l over tokens read off the residual stream after l blocks, l = 0 … n_layers (the axis `state`).

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

    Of two stacks it reads the decoder's. The model's states must be frozen dataclasses with a `resid`, in a `decoder` where
    there are two, and every block must begin with the site `resid_pre`. One state's logits exist at a time, beside the
    final ones. In early layers the streams are often written in another basis than the one that the unembedding reads: a
    large divergence there does not show that the model knows nothing. At padding the numbers mean nothing.

    Raises ValueError for a model without a head: there is nothing to read the states with.

    >>> from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> lens = logit_lens(model, torch.tensor([[1, 2, 3]]))
    >>> lens.kl.shape, lens.kl[-1].tolist(), bool(lens.agrees[-1].all())
    (torch.Size([3, 1, 3]), [[0.0, 0.0, 0.0]], True)
    """
    with torch.no_grad():
        streams, state = _passed(model, inputs)
        final = _logits(model.finish(state)).log_softmax(-1)
        answers = [_compared(_logits(model.finish(_with_stream(state, resid))), final.exp(), final) for resid in streams]
        best = final.max(-1)
        answers.append((torch.zeros_like(best.values), best.indices, best.values.exp()))
    return LogitLens(*(torch.stack(column) for column in zip(*answers, strict=True)))


def state_logits(model: Steppable, *inputs: Tensor | None) -> Iterator[Float[Tensor, "batch pos d_vocab"]]:
    """What the head reads off every state, one after another: the embedding first, the model's own logits last.

    Raises ValueError as `logit_lens` does.

    >>> from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> [tuple(logits.shape) for logits in state_logits(model, torch.tensor([[1, 2, 3]]))]
    [(1, 3, 10), (1, 3, 10), (1, 3, 10)]
    """
    with torch.no_grad():
        streams, state = _passed(model, inputs)
    for at in (*(_with_stream(state, resid) for resid in streams), state):
        with torch.no_grad():
            logits = _logits(model.finish(at))
        yield logits


def _passed(model: Steppable, inputs: tuple[Tensor | None, ...]) -> tuple[list[Float[Tensor, "batch pos d_model"]], Any]:
    """The stream that enters each block, and the last state."""
    sites = model.sites()
    if "logits" not in sites:
        raise ValueError("the logit lens reads states through the model's head, but this model has no site 'logits'")
    prefix = "decoder." if "decoder.blocks.0.resid_pre" in sites else ""
    with record(model, f"{prefix}blocks.*.resid_pre") as streams:
        state = model.start(*inputs)
        for i in range(model.n_layers):
            state = model.step(state, i)
    return list(streams.values()), state


def _with_stream(state: Any, resid: Float[Tensor, "batch pos d_model"]) -> Any:
    """The same state with another residual stream: the decoder's, where there are two stacks."""
    if hasattr(state, "decoder"):
        return dataclasses.replace(state, decoder=_with_stream(state.decoder, resid))
    return dataclasses.replace(state, resid=resid)


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

"""How do final states become logits? Unembedding, and BERT's masked-language-model head before it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.config import TransformerConfig
from model.feedforward import ACTIVATIONS
from model.norms import make_norm
from model.sites import Site


class MaskedHead(nn.Module):
    """What BERT does before it unembeds: a dense layer, an activation, a norm (Devlin et al. 2019)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.activation = ACTIVATIONS[config.activation]
        self.ln = make_norm(config)

    def forward(self, states: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.ln(self.activation(self.dense(states)))


class LogitHead(nn.Module):
    """Final states → logits, scaled and capped as the config says."""

    def __init__(self, config: TransformerConfig, embedding: nn.Embedding) -> None:
        super().__init__()
        self.factor, self.cap = config.logit_scale, config.logit_cap
        self.transform = MaskedHead(config) if config.head == "mlm" else None
        self.unembedding = nn.Linear(config.d_model, config.d_vocab, bias=config.unembed_bias)
        if config.tied_embeddings:
            self.unembedding.weight = embedding.weight

    def forward(
        self, states: Float[Tensor, "batch pos d_model"], tokens: Int[Tensor, "batch answers"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Of all tokens, or of those that are asked for in each row: Float[batch pos answers]."""
        states = states if self.transform is None else self.transform(states)
        if tokens is None:
            logits = self.unembedding(states)
        else:
            weight, bias = self.unembedding.weight, self.unembedding.bias
            logits = states @ weight[tokens].transpose(1, 2)  # batch pos answers
            logits = logits if bias is None else logits + bias[tokens].unsqueeze(1)
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def read_out(
    states: Float[Tensor, "batch read d_model"], unembed: LogitHead | None, logits: Site | None, tokens: Int[Tensor, "batch answers"] | None
) -> Float[Tensor, "batch read d_vocab"]:
    """The logits of final states, of all tokens or of some; the states themselves where there is no head.

    Where somebody looks at the logits, all of them are computed.
    """
    if unembed is None:
        return states
    if tokens is None or logits.observed:
        every = logits(unembed(states))
        return every if tokens is None else every.gather(2, tokens.unsqueeze(1).expand(-1, every.shape[1], -1))
    return unembed(states, tokens)

"""What is computed without attention? A recurrent language model, of LSTM or of plain tanh cells: the baseline that a Transformer of the same size is held against."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.choices import one_of
from model.inputs import check_inputs
from model.sites import Site
from model.source import Source
from model.tokenizer import Pad, Tokenizer

HIDDEN_AXES = ("batch", "pos", "d_model")
Cell = Literal["lstm", "rnn"]
"""long short-term memory (Hochreiter & Schmidhuber 1997), or hᵢ = tanh(W x + b + U hᵢ₋₁ + c) (Elman 1990)"""
CELLS = {"lstm": nn.LSTM, "rnn": nn.RNN}


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """The shape of a recurrent language model: `n_layers` of width `d_model`, each reading the hidden states of the one below.

    >>> LSTMConfig(n_layers=2, d_model=0, d_vocab=10)
    Traceback (most recent call last):
    ...
    ValueError: d_model must be a whole number of at least 1, got d_model=0
    """

    family: str = "lstm"
    n_layers: int
    d_model: int
    """of the embedding and of the hidden states"""
    d_vocab: int
    dropout: float = 0.0
    """of the embedding and of what each layer hands on, in training"""
    cell: Cell = "lstm"
    """what a layer is made of"""

    def __post_init__(self) -> None:
        one_of(self, "cell", Cell)
        for name in ("n_layers", "d_model", "d_vocab"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {name}={value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability below 1, got dropout={self.dropout}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LSTMConfig:
        """The inverse of `to_dict`. Raises ValueError that names a field which this version does not know."""
        known = sorted(field.name for field in fields(cls))
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown config field {unknown[0]!r}: this version of prosect knows {', '.join(known)}")
        return cls(**values)


class LSTMLanguageModel(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), or a plain recurrent network, that predicts the next token, called as a decoder is.

    Its sites are `embed`, `layers.i.hidden`, and `logits`. What a layer computes from one position to the next is torch's
    own and is not cut open: an edit of `layers.i.hidden` changes what the layer above reads there, not what layer i
    remembers. There is no attention, so no head and no pattern.

    >>> model = LSTMLanguageModel(LSTMConfig(n_layers=2, d_model=8, d_vocab=10), generator=torch.Generator().manual_seed(0))
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])
    >>> list(model.sites())
    ['embed', 'layers.0.hidden', 'layers.1.hidden', 'logits']
    """

    def __init__(self, config: LSTMConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Tokenizer | None = None
        self.source = Source(name=config.family, kind="initialised")
        self.embedding = nn.Embedding(config.d_vocab, config.d_model)
        self.embed = Site("embed")
        self.layers = nn.ModuleList(RecurrentLayer(config.d_model, config.cell) for _ in range(config.n_layers))
        self.unembedding = nn.Linear(config.d_model, config.d_vocab)
        self.logits = Site("logits")
        if not self.embedding.weight.is_meta:
            self._initialise(generator)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the next token at every position, of any number of positions. `mask` is True at real tokens.

        Padding is stepped over, wherever it stands. Raises ValueError for tokens outside the vocabulary, an empty batch, and
        shapes or dtypes that are not those above.
        """
        mask = check_inputs(tokens, mask, d_vocab=self.config.d_vocab, n_ctx=sys.maxsize)
        dropout = self.config.dropout
        states = F.dropout(self.embed(self.embedding(tokens)), dropout, self.training)  # batch pos d_model
        for layer in self.layers:
            states = F.dropout(layer(states, mask), dropout, self.training)
        return self.logits(self.unembedding(states))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the parameters."""
        return self.embedding.weight.dtype

    def sites(self) -> dict[str, Site]:
        """Everything that can be observed and edited: name → Site."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Site)}

    def tokenize(
        self, texts: Sequence[str], target: Sequence[str] | None = None, pad: Pad = "right"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """What the model is called with: tokens, and a mask that is True at real tokens. Nothing is prepended.

        Raises ValueError if there is no tokenizer, no text, a text without any token, or a `target`.
        """
        if target is not None:
            raise ValueError("a recurrent language model has no target sequence; call tokenize(texts)")
        if self.tokenizer is None:
            raise ValueError(f"{self.source.name} came without a tokenizer; set model.tokenizer, or pass token ids")
        return self.tokenizer.batch(texts, pad=pad, device=self.device)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        """Embedding and unembedding from N(0, 1), other weights uniform within ±1/√d_model, zero biases but 1 at the forget gates (Jozefowicz et al. 2015).

        Hidden states stay within ±1 and are not normed before they are read. With an unembedding within ±1/√d_model, too, an LSTM
        of 0.1 M parameters was 0.4 nats above the bigram after 300 updates of prose; from here it is 0.5 below (seeds 100 and 101).
        """
        d_model = self.config.d_model
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or "bias_" in name:
                parameter.zero_()
            elif name in ("embedding.weight", "unembedding.weight"):
                parameter.normal_(generator=generator)
            else:
                parameter.uniform_(-(d_model**-0.5), d_model**-0.5, generator=generator)
        for layer in self.layers:
            if self.config.cell == "lstm":
                layer.lstm.bias_ih_l0[d_model : 2 * d_model] = 1.0  # torch's order of gates: input, forget, cell, output


class RecurrentLayer(nn.Module):
    """One layer: hidden states of the positions, each from the one before and what stands below."""

    def __init__(self, d_model: int, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.add_module(cell, CELLS[cell](d_model, d_model, batch_first=True))  # weights are named by the cell
        self.hidden = Site("hidden", HIDDEN_AXES)

    def forward(
        self, states: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"] | None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Hidden states, 0 at padding."""
        recurrent = getattr(self, self.cell)
        if mask is None:
            return self.hidden(recurrent(states)[0])
        order = (~mask).long().argsort(dim=1, stable=True).unsqueeze(-1).expand_as(states)  # real tokens first, as they came
        hidden = recurrent(states.gather(1, order))[0]
        return self.hidden(torch.zeros_like(hidden).scatter(1, order, hidden) * mask.unsqueeze(-1))

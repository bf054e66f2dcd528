"""Which models do the tests look at? Trained ones that ship in packages, and small random ones of every family."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from model import EncoderDecoder, Transformer, load_model, wrap
from model.architectures import architectures
from probes import Metric, Observable
from probes.metrics import Readout

FAMILIES = [
    pytest.param((name, i), id=f"{name}-{i}") for name, family in architectures().items() for i in range(len(family.random_configs))
]
"""Every family, with each of its odd-sized random configs."""

PADDING = ["none", "left", "right"]


@pytest.fixture(scope="session", autouse=True)
def first_parallel_attention() -> None:
    """The first parallel attention of a process may round otherwise than all later ones (see `analyses._runs`): not in a test."""
    x = torch.ones(8, 8, 64, 64)
    torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


def hugging_face(name: str, i: int, *, headless: bool = False) -> torch.nn.Module:
    """A small random model by the family's own implementation, with weights large enough that every path matters."""
    family = architectures()[name]
    values = {"attn_implementation": "eager", **family.random_configs[i]}
    config = transformers.AutoConfig.for_model(name, **values)
    model = getattr(transformers, family.headless_class if headless else family.transformers_class)._from_config(config).eval()
    if name == "t5" and values.get("tie_word_embeddings") is False and not headless:  # the library unties it only on loading
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    generator = torch.Generator().manual_seed(i)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:  # tables of sinusoids stay
                noise, gain = torch.randn(parameter.shape, generator=generator), parameter.dim() == 1 and key.endswith("weight")
                parameter.copy_(1.0 + 0.2 * noise if gain else noise * size_of(key))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(generator=generator)
    return model


def size_of(key: str) -> float:
    """The spread of a matrix or bias: T5's positions must matter beside scores that it does not scale."""
    return 1.0 if "relative_attention_bias" in key else 0.1 if key.endswith("Attention.q.weight") else 0.25


def example(model: Transformer | EncoderDecoder, padding: str = "none", batch: int = 3, pos: int = 11, seed: int = 1) -> tuple[Tensor, ...]:
    """What a model is called with: random tokens of which the second row is padded, and for two stacks a longer source."""
    generator = torch.Generator().manual_seed(seed)

    def sequence(d_vocab: int, n: int) -> tuple[Tensor, Tensor]:
        mask, cut = torch.ones(batch, n, dtype=torch.bool), (2 * n) // 5
        if padding != "none" and batch > 1:
            mask[1, slice(cut) if padding == "left" else slice(n - cut, None)] = False
        return torch.randint(d_vocab, (batch, n), generator=generator), mask

    if isinstance(model, Transformer):
        return sequence(model.config.d_vocab, pos)
    (source, source_mask), (target, target_mask) = sequence(model.config.encoder.d_vocab, 13), sequence(model.config.decoder.d_vocab, pos)
    return source, target, source_mask, target_mask


def read_mask(inputs: tuple[Tensor, ...]) -> Tensor:
    """Which positions of the output are those of real tokens."""
    return inputs[-1]


@dataclass(frozen=True)
class Pair:
    """A foreign model and ours around its parameters."""

    theirs: Any
    ours: Transformer | EncoderDecoder

    @torch.no_grad()
    def expected(self, *inputs: Tensor) -> Tensor:
        """The output of the family's own implementation, 0 at padding.

        It gets the same position ids; where it takes none, each row runs on its own without padding.
        """
        if isinstance(self.ours, Transformer):
            tokens, mask = inputs
            options = {"attention_mask": mask.long()}
            if "position_ids" in inspect.signature(self.theirs.forward).parameters:
                first = self.theirs.config.pad_token_id + 1 if self.theirs.config.model_type == "roberta" else 0
                options["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0) + first
            return self.output(self.theirs(tokens, **options)) * mask.unsqueeze(-1)
        source, target, source_mask, target_mask = inputs
        rows = []
        for i in range(len(source)):
            words, written = source[i : i + 1, source_mask[i]], target[i : i + 1, target_mask[i]]
            got = self.output(self.theirs(words, decoder_input_ids=written))[0]  # real d
            rows.append(got.new_zeros(target.shape[1], got.shape[-1]).masked_scatter(target_mask[i][:, None], got))
        return torch.stack(rows)

    def got(self, *inputs: Tensor) -> Tensor:
        """Our output, 0 at padding."""
        return self.ours(*inputs) * read_mask(inputs).unsqueeze(-1)

    @staticmethod
    def output(answer: Any) -> Tensor:
        """Logits, or the final states of a model without a head."""
        return answer.logits if hasattr(answer, "logits") else answer.last_hidden_state


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    theirs = hugging_face(*request.param)
    return Pair(theirs, wrap(theirs))


@pytest.fixture(scope="session")
def glasslm() -> Transformer:
    return load_model("glasslm")


@pytest.fixture(scope="session")
def smollm2() -> Transformer:
    return load_model("smollm2")


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((got - expected).detach().abs().max() / expected.detach().abs().max())


def interrupted(metric: Metric, call: int, calls: list[int] | None = None) -> Metric:
    """The same metric, at whose `call`-th measurement Ctrl-C is pressed; counted over all batches and models, and metrics that share `calls`."""
    calls = [] if calls is None else calls

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        readout = metric.on(model, inputs)

        def measure(logits: Tensor, clean: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == call:
                raise KeyboardInterrupt
            return readout.measure(logits, clean)

        return replace(readout, measure=measure)

    return replace(metric, on=on)


def place_to_read(model: Observable) -> int | None:
    """Where an answer is read: behind the last real token, or at a place in the middle of what reads both ways."""
    return 3 if isinstance(model, Transformer) and not model.config.causal else None

"""What is a model run on where a question is about text in general? Chunks for one stack; a source with its target for two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses._anatomy import Inputs, Model
from analyses._corpus import Corpus, CorpusError
from model import EncoderDecoder, Tokenizer, Transformer, generate
from probes import Metric, loss, masked_loss, representation_shift
from probes.inputs import written

LONGEST_LINE = 64
"""tokens: a line of an encoder-decoder's text is not cut, and used if it is no longer than this or than the length asked for"""
NEW_TOKENS = 4
"""where a target is written by the model itself, it is at most this many times as long as its source"""


@dataclass(frozen=True)
class Task:
    """Inputs of a model and a number that says how well it does on each: what an intervention is held against."""

    inputs: Inputs
    metric: Metric
    meaning: str
    of: Callable[[slice], Metric] | None = None
    """the metric of some of the examples, where it depends on them"""

    def metric_of(self, chosen: slice) -> Metric:
        """The metric of some of the examples."""
        return self.metric if self.of is None else self.of(chosen)

    @property
    def n_examples(self) -> int:
        return len(self.inputs[0])

    @property
    def length(self) -> int:
        """Tokens of the longest example, of the target where there is one."""
        return written(self.inputs)[0].shape[1]


def examples(model: Model, corpus: Corpus, n: int, length: int) -> Inputs:
    """What the model is called with, at most `n` examples of at most `length` tokens.

    A decoder reads chunks of the text without overlap, an encoder the same between the tokens of its template ([CLS] …
    [SEP]). An encoder-decoder reads the prompts, or else the lines of the text, each with its target: the one that the
    prompts file gives, or what the model itself writes, greedily.

    Raises CorpusError where the text does not fill one chunk.
    """
    if isinstance(model, EncoderDecoder):
        return _pairs(model, corpus, n, length)
    if model.config.causal:
        return (corpus.chunks(n, min(length, model.config.n_ctx)).to(model.device),)
    before, after = template(model.tokenizer)
    chunks = corpus.chunks(n, min(length, model.config.n_ctx) - len(before) - len(after))
    around = [torch.tensor(ids, dtype=torch.long).expand(len(chunks), -1) for ids in (before, after)]
    return (torch.cat([around[0], chunks.cpu(), around[1]], dim=1).to(model.device),)


def template(tokenizer: Tokenizer | None) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer's template puts before and behind a text; none where there is no tokenizer."""
    if tokenizer is None:
        return [], []
    bare, framed = tokenizer.encode("a"), tokenizer.encode("a", template=True)
    start = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), 0)
    return framed[:start], framed[start + len(bare) :]


def text_task(model: Model, corpus: Corpus, n: int, length: int, *, seed: int = 0) -> Task:
    """The number that text alone gives: the loss of the next token; of masked tokens in an encoder with a masked-LM head; in a
    model without a head how far its pooled output moves.

    Raises CorpusError as `examples` does.
    """
    inputs = examples(model, corpus, n, length)
    config = model.config if isinstance(model, Transformer) else model.config.decoder
    if config.head == "none":
        return Task(inputs, representation_shift(), "how far the pooled output moves")
    if isinstance(model, Transformer) and not config.causal:
        tokens, answers, chosen = _masked(model, inputs[0], seed)
        return Task((tokens,), masked_loss(answers, chosen), "loss of masked tokens", lambda some: masked_loss(answers[some], chosen[some]))
    return Task(inputs, loss(), "loss of the target" if isinstance(model, EncoderDecoder) else "loss of the next token")


def _pairs(model: EncoderDecoder, corpus: Corpus, n: int, length: int) -> Inputs:
    longest, decoder = min(model.config.encoder.n_ctx, max(length, LONGEST_LINE)), model.config.decoder.n_ctx
    pairs = [pair for pair in _lines(corpus) if 0 < len(model.tokenizer.encode(pair[0], template=True)) <= longest][:n]
    if not pairs:
        raise CorpusError(f"no line of the text has from 1 to {longest} tokens; give other lines with --text or --prompts")
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    if all(target is not None for target in targets):
        return model.tokenize(sources, target=targets)
    source, start, source_mask, start_mask = model.tokenize(sources)
    if model.unembed is None:
        return source, start, source_mask, start_mask
    room = min(decoder, NEW_TOKENS * source.shape[1]) - 1
    written = generate(model, (source, start, source_mask, start_mask), n_new=max(1, room))
    kept = _without_last(written.mask)
    used = 1 + max(1, int(kept.sum(1).max()))
    return source, torch.cat([start, written.tokens], 1)[:, :used], source_mask, torch.cat([start_mask, kept], 1)[:, :used]


def _without_last(mask: Tensor) -> Tensor:
    """The mask of what was written without its last token, the end: it is only ever predicted."""
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return mask & following


def _lines(corpus: Corpus) -> list[tuple[str, str | None]]:
    """Sources with their targets, None where the model is to write it."""
    if corpus.prompts:
        return [(p.prompt, p.target) for p in corpus.prompts]
    return [(line.strip(), None) for line in corpus.text.splitlines() if line.strip()]


def _masked(model: Transformer, tokens: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Chunks of which 15 % of the tokens are masked (Devlin et al. 2019), the tokens that stood there, and where."""
    mask_id = mask_token(model)
    if mask_id is None:
        raise CorpusError(f"the tokenizer of {model.source.name} has no mask token")
    generator, special = torch.Generator().manual_seed(seed), set(model.tokenizer.backend.get_added_tokens_decoder())
    able = torch.tensor([[int(i) not in special for i in row] for row in tokens.tolist()])
    lots = torch.rand(tokens.shape, generator=generator).masked_fill(~able, 2.0)
    n = (able.sum(1, keepdim=True) * 0.15).round().clamp(min=1)
    chosen = (able & (lots.argsort(1).argsort(1) < n)).to(tokens.device)
    return tokens.masked_fill(chosen, mask_id), tokens, chosen


def mask_token(model: Transformer) -> int | None:
    """The id of the token that stands for a masked one, None where the tokenizer has none."""
    names: Sequence[str] = ("[MASK]", "<mask>")
    found = (None if model.tokenizer is None else model.tokenizer.backend.token_to_id(name) for name in names)
    return next((i for i in found if i is not None), None)

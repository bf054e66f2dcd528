"""Which texts is the residual stream read on, and which example does the logit lens show?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from analyses._anatomy import Inputs, Model, Side, sides
from analyses._corpus import Corpus, CorpusError
from analyses._examples import examples, mask_token, template, text_task
from analyses._residual_frames import stack_name
from model import EncoderDecoder, Tokenizer, Transformer

SHORTEST = 4
"""tokens: in a shorter text a median over positions says nothing"""
EXAMPLE_TOKENS = 24
"""the logit lens of the example shows at most this many tokens"""


def read(model: Model, corpus: Corpus, n: int, length: int) -> Inputs | None:
    """What the model is called with: `examples`, shorter where context or text are; None where nothing has enough tokens."""
    if isinstance(model, Transformer):
        frame = 0 if model.config.causal else sum(map(len, template(model.tokenizer)))
        length = min(length, model.config.n_ctx, len(corpus.tokens) + frame)
        if length - frame < 1:
            return None
    try:
        inputs = examples(model, corpus, n, length)
    except CorpusError:
        return None
    return inputs if readable(model, inputs) else None


def readable(model: Model, inputs: Inputs) -> list[Side]:
    """The stacks that read long enough texts."""
    return [side for side in sides(model) if longest(side, inputs) >= SHORTEST]


def longest(side: Side, inputs: Inputs) -> int:
    """Real tokens of the longest text of a stack."""
    tokens, mask = side.tokens(inputs)
    return tokens.shape[1] if mask is None else int(mask.sum(1).max())


def lens_side(model: Model) -> Side | None:
    """The stack whose states the model's head reads, None without a head."""
    last = sides(model)[-1]
    return None if last.config.head == "none" else last


def lens_inputs(model: Model, corpus: Corpus, inputs: Inputs, *, length: int, seed: int) -> tuple[Inputs, Bool[Tensor, "batch pos"]]:
    """What the logit lens reads, and where: everything written; in an encoder the masked tokens of the same texts.

    A masked-language-model head is trained at masked tokens; elsewhere it says again what stands there.
    """
    tokens, mask = sides(model)[-1].tokens(inputs)
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    if isinstance(model, EncoderDecoder) or model.config.causal or mask_token(model) is None:
        return inputs, real
    inputs = text_task(model, corpus, len(tokens), min(length, tokens.shape[1]), seed=seed).inputs
    return inputs, inputs[0] == mask_token(model)


def example(model: Model, corpus: Corpus, *, seed: int) -> Inputs:
    """The first prompt, or where there is none the beginning of the text; an encoder's with masked tokens; two stacks' first pair."""
    if isinstance(model, EncoderDecoder):
        return tuple(None if part is None else part[:1] for part in examples(model, corpus, 1, EXAMPLE_TOKENS))
    most = min(EXAMPLE_TOKENS, model.config.n_ctx)
    if not model.config.causal:
        frame = sum(map(len, template(model.tokenizer)))
        inputs = examples(model, corpus, 1, min(most, len(corpus.tokens) + frame))
        return lens_inputs(model, corpus, inputs, length=most, seed=seed)[0]
    if model.tokenizer is not None and corpus.prompts:
        return (model.tokenize([corpus.prompts[0].prompt])[0][:, :most],)
    return (corpus.tokens[None, :most].to(model.device),)


def writer(model: Model) -> Tokenizer | None:
    """The tokenizer of what the outputs stand over."""
    other = model.target_tokenizer if isinstance(model, EncoderDecoder) else None
    return other or model.tokenizer


def words(tokenizer: Tokenizer | None, tokens: Tensor) -> list[str]:
    """The text of each token, its id where there is no tokenizer."""
    return [str(int(i)) for i in tokens] if tokenizer is None else tokenizer.to_str_tokens(tokens)


def notes(model: Model, corpus: Corpus, inputs: Inputs | None, *, asked: int, n_lens: int, seed: int) -> Mapping[str, str]:
    """What was read, for a reader."""
    n_ctx = min(side.config.n_ctx for side in sides(model))
    if inputs is None:
        return {"text": f"none: the text has {len(corpus.tokens)} tokens, the context holds {n_ctx}"}
    shown = example(model, corpus, seed=seed)
    if isinstance(model, EncoderDecoder):
        lengths = {stack_name(side): longest(side, inputs) for side in sides(model)}
        said = (
            f"{len(inputs[0])} sources of up to {lengths['encoder']} tokens with targets of up to {lengths['decoder']}, padding not counted"
        )
        pair = [
            words(tokens_of, part[0][mask[0]])
            for tokens_of, part, mask in zip((model.tokenizer, writer(model)), shown[:2], shown[2:], strict=True)
        ]
        found = {"text": said, "example": " → ".join("".join(part) for part in pair)}
        short = [stack_name(side) for side in sides(model) if side.name not in {one.name for one in readable(model, inputs)}]
        found |= {"left out": f"the {short[0]}: its texts hold fewer than {SHORTEST} tokens"} if short else {}
    else:
        n, length = inputs[0].shape
        shorter = f"; asked for {asked}, but the context holds {n_ctx} and the text has {len(corpus.tokens)}" if length < asked else ""
        around = "nothing prepended" if model.config.causal else "those of the template included"
        joint = "" if model.config.causal else " "
        found = {"text": f"{n} chunks of {length} tokens, {around}{shorter}", "example": joint.join(words(model.tokenizer, shown[0][0]))}
    if lens_side(model) is None:
        return {name: text for name, text in found.items() if name != "example"} | {"logit lens": "none: the model has no head"}
    which = "chunks" if isinstance(model, Transformer) else "pairs"
    masked = ", at masked tokens (15 %)" if isinstance(model, Transformer) and not model.config.causal else ""
    return {"text": found.pop("text"), "logit lens": f"the first {min(n_lens, len(inputs[0]))} of these {which}{masked}"} | found

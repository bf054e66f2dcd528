"""Which tokens does every state name, and where does the right answer stand among all? The logit lens on one text."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from analyses._anatomy import Inputs, Model, sides
from analyses._corpus import Corpus
from analyses._examples import examples, mask_token
from analyses._residual_inputs import EXAMPLE_TOKENS, words, writer
from model import EncoderDecoder
from probes.statistics.logit_lens import state_logits

CHOICES = 5
"""how many tokens are named at every place"""
NO_TARGET = -1
CHOICE_COLUMNS = ["state", "position", "choice", "token", "probability"]
TARGET_COLUMNS = ["state", "position", "target", "rank", "probability"]


def targets_of(model: Model, corpus: Corpus, inputs: Inputs) -> Int[Tensor, "1 pos"]:
    """The right answer at each position of the example, −1 where there is none.

    The next token of the text; after the last one the prompt's target where it has one; in an encoder what a masked token hides.
    """
    tokens, mask = sides(model)[-1].tokens(inputs)
    found = torch.full_like(tokens, NO_TARGET)
    if not isinstance(model, EncoderDecoder) and not model.config.causal:
        hidden = mask_token(model)
        if hidden is None:
            return found
        whole = examples(model, corpus, 1, tokens.shape[1])[0]
        return torch.where(tokens == hidden, whole, found) if whole.shape == tokens.shape else found
    found[:, :-1] = tokens[:, 1:]
    if mask is not None:
        found[:, :-1][~(mask[:, 1:] & mask[:, :-1])] = NO_TARGET
    if not isinstance(model, EncoderDecoder) and model.tokenizer is not None and corpus.prompts:
        first = corpus.prompts[0]
        if first.target is not None and len(model.tokenizer.encode(first.prompt)) == tokens.shape[1]:
            found[0, -1] = model.tokenizer.encode(first.target)[0]
    return found


def lens_choices(model: Model, inputs: Inputs, targets: Int[Tensor, "1 pos"], k: int = CHOICES) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The k most probable tokens after every block at every position of the first example, and the place of its right answer.

    Rank 1 is the first choice; equal logits count in favour of the right answer.
    """
    tokens, mask = sides(model)[-1].tokens(inputs)
    kept = (torch.arange(tokens.shape[1]) if mask is None else mask[0].nonzero()[:, 0].cpu())[:EXAMPLE_TOKENS]
    asked = targets[0, kept].cpu()
    there = (asked != NO_TARGET).nonzero()[:, 0]
    named = dict(zip(there.tolist(), words(writer(model), asked[there]), strict=True))
    choices, ranks = [], []
    for state, logits in enumerate(state_logits(model, *inputs)):
        logits = logits[0, kept.to(logits.device)].cpu()  # pos d_vocab
        shares = logits.softmax(-1)
        best = shares.topk(min(k, shares.shape[-1]))
        said = words(writer(model), best.indices.flatten())
        n = best.values.shape[-1]
        choices += [
            (state, i // n, i % n + 1, token, p) for i, (token, p) in enumerate(zip(said, best.values.flatten().tolist(), strict=True))
        ]
        right, p = (values[there].gather(1, asked[there, None]) for values in (logits, shares))  # target 1
        above = 1 + (logits[there] > right).sum(-1)
        ranks += [(state, i, named[i], *row) for i, *row in zip(there.tolist(), above.tolist(), p[:, 0].tolist(), strict=True)]
    return pd.DataFrame(choices, columns=CHOICE_COLUMNS), pd.DataFrame(ranks, columns=TARGET_COLUMNS)

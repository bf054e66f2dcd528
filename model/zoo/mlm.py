"""MLM: a small BERT that fills in masked words of a novel. What does an encoder with a head know?"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from model.choices import Dropout
from model.config import TransformerConfig
from model.tokenizer import Tokenizer
from model.training import MaskedLM, Recipe, train_wordpiece
from model.training.objectives import token_loss
from model.training.randomness import generator_of
from model.transformer import Transformer
from model.zoo._contract import ZooModel, read_shipped
from model.zoo._course import Course
from model.zoo._prose import FILE, RandomWindows, chunks, halves, unigram_loss

D_VOCAB = 1000
LENGTH, BATCH = 62, 32
"""tokens of a piece, without [CLS] and [SEP]; pieces of a step"""
N_CHOICES = 4
"""how often each held-out piece is asked about, other tokens each time"""
RECIPE = Recipe(steps=1500, learning_rate=2e-3, warmup=150, decay="cosine", betas=(0.9, 0.98), weight_decay=0.01)


def build(seed: int) -> Transformer:
    """The untrained model: post-norm, learned positions, GELU, two segments, and the head of BERT."""
    tokenizer = pieces()
    config = TransformerConfig(
        family="mlm",
        n_layers=4,
        d_model=128,
        n_heads=4,
        d_head=32,
        d_mlp=512,
        d_vocab=tokenizer.backend.get_vocab_size(),
        n_ctx=LENGTH + 2,
        causal=False,
        head="mlm",
        norm_place="post",
        embed_norm=True,
        final_norm=False,
        activation="gelu",
        n_segments=2,
        unembed_bias=True,
        dropout=Dropout(embed=0.1),
    )
    model = Transformer(config, generator=torch.Generator().manual_seed(seed))
    model.tokenizer = tokenizer
    return model


@cache
def pieces() -> Tokenizer:
    """Word pieces, lower case, learned from the same prose as the model."""
    return train_wordpiece([halves()[0]], D_VOCAB)


def objective(tokenizer: Tokenizer) -> MaskedLM:
    """15 % of the tokens: 80 % of them masked, 10 % replaced, 10 % left as they are."""
    vocab = tokenizer.backend.get_vocab()
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    return MaskedLM(mask_id=vocab["[MASK]"], d_vocab=len(vocab), never=tuple(vocab[token] for token in special))


def lessons(model: Transformer, seed: int) -> tuple[RandomWindows, MaskedLM]:
    """62 tokens from anywhere in the text between [CLS] and [SEP], 32 times a step."""
    learned, _ = _tokens(model.tokenizer)
    windows = RandomWindows(learned, n_batches=RECIPE.steps, batch=BATCH, length=LENGTH, seed=seed, ends=_ends(model.tokenizer))
    return windows, objective(model.tokenizer)


@torch.no_grad()
def measure(model: Transformer, n: int | None = None) -> dict[str, float]:
    """Nats and accuracy at the chosen tokens of the first n pieces of the held-out prose (None: all), four choices of each piece,
    the same every time; and both for a guess from the frequencies of tokens in the prose that was learned from."""
    seen, tokens = _tokens(model.tokenizer)
    ask, ends = objective(model.tokenizer), _ends(model.tokenizer)
    batches = chunks(tokens if n is None else tokens[: n * LENGTH], batch=BATCH, length=LENGTH, ends=ends)
    loss, right, asked = 0.0, 0, []
    for i, batch in enumerate(batches * N_CHOICES):
        exercise = ask(batch, generator_of(0, "measure", i))
        logits = model(*exercise.inputs)
        answers = exercise.answers[exercise.counted]
        loss += float(token_loss(logits, exercise))
        right += int((logits[exercise.counted].argmax(-1) == answers).sum())
        asked += answers.tolist()
    commonest = int(seen.bincount().argmax())
    return {
        "held_out_nats_per_masked_token": loss / len(asked),
        "held_out_accuracy": right / len(asked),
        "unigram_nats_per_masked_token": unigram_loss(seen.tolist(), asked, ask.d_vocab),
        "unigram_accuracy": asked.count(commonest) / len(asked),
        "n_masked_tokens": len(asked),
    }


def _tokens(tokenizer: Tokenizer) -> tuple[Int[Tensor, "pos"], Int[Tensor, "pos"]]:
    """The prose to learn from, and the prose that is held out."""
    learned, held_out = (torch.tensor(tokenizer.encode(half)) for half in halves())
    return learned, held_out


def _ends(tokenizer: Tokenizer) -> tuple[int, int]:
    return tokenizer.bos_id, tokenizer.eos_id


COURSE = Course(
    recipe=RECIPE,
    build=build,
    lessons=lessons,
    measure=measure,
    data=(FILE,),
    method=(
        "AdamW on pieces of 62 tokens from anywhere in the first nine tenths of the prose, from which the word pieces are learned too; "
        "of each piece 15 % of the tokens are asked for (80 % masked, 10 % replaced, 10 % kept). Quality: at the tokens so chosen in the "
        "last tenth, four choices of each piece; the unigram guess knows how frequent each token is in the first nine tenths, and "
        "always guesses the commonest."
    ),
)
MODEL = ZooModel(
    name="mlm",
    title="MLM (encoder of 4 layers × 4 heads, 0.95 M parameters, fills in masked word pieces of prose)",
    licence="Apache-2.0",
    read=read_shipped,
    prompts=None,
    course=COURSE,
)

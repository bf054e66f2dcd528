"""How is a short word said? Letters to phonemes of CMUdict, for the smallest encoder-decoder that learns it in a minute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from analyses.studies._drawn import Drawn
from analyses.studies._training import BASE, Learnt, learn, recipe_of
from model import EncoderDecoder, EncoderDecoderConfig, generate
from model.training import SequenceToSequence
from model.training.objectives import Batch
from model.training.randomness import generator_of
from model.zoo import pronunciations
from model.zoo.g2p import LETTERS, PHONEMES, SPECIALS, edit_distance, letters, phonemes

LONGEST = 8
"""letters of a word"""
N_CTX = 24


def speller(seed: int) -> EncoderDecoder:
    """The untrained model: two blocks of width 64 on either side."""
    shape = dataclasses.replace(BASE, n_ctx=N_CTX, embed_scale=8.0, tied_embeddings=False)
    encoder = dataclasses.replace(shape, d_vocab=len(SPECIALS) + len(LETTERS), causal=False, head="none")
    decoder = dataclasses.replace(shape, d_vocab=len(SPECIALS) + len(PHONEMES))
    config = EncoderDecoderConfig(encoder=encoder, decoder=decoder, shared_embeddings=False)
    model = EncoderDecoder(config, generator=torch.Generator().manual_seed(seed))
    model.tokenizer, model.target_tokenizer = letters(), phonemes()
    return model


@cache
def short_words(part: str) -> dict[str, tuple[str, ...]]:
    """Words of 3 to 8 letters with their pronunciations; part "train" or "held out".

    >>> max(map(len, short_words("held out")))
    8
    """
    return {word: said for word, said in pronunciations(part).items() if 3 <= len(word) <= LONGEST}


@dataclass(frozen=True, kw_only=True, eq=False)
class Words(Drawn):
    """`n_batches` of what the model is called with: words drawn at random, with their first pronunciation."""

    model: EncoderDecoder
    n_batches: int
    batch: int
    seed: int

    def drawn(self, i: int) -> Batch:
        words = list(short_words("train"))
        chosen = [words[j] for j in torch.randint(len(words), (self.batch,), generator=generator_of(self.seed, "words", i))]
        return self.model.tokenize(chosen, [short_words("train")[word][0] for word in chosen])


def learn_to_say(seed: int, steps: int) -> Learnt:
    """A model that is taught the task."""
    model = speller(seed)
    objective = SequenceToSequence(end_id=model.target_tokenizer.eos_id)
    recipe = dataclasses.replace(recipe_of(steps), seed=seed)
    return learn(
        model, Words(model=model, n_batches=steps, batch=64, seed=seed), objective, recipe, validation=[held_out_pairs(model, asked(64))]
    )


def asked(n: int) -> list[str]:
    """n held-out words from all over the alphabet."""
    words = list(short_words("held out"))
    return words[:: max(1, len(words) // n)][:n]


def held_out_pairs(model: EncoderDecoder, words: Sequence[str]) -> Batch:
    """Held-out words with their first pronunciation, as the model is called."""
    return model.tokenize(list(words), [short_words("held out")[word][0] for word in words])


def error_rate(model: EncoderDecoder, words: Sequence[str], read: Sequence[str] | None = None) -> float:
    """Edit distance over length of the reference, both summed over `words`, each with its nearest reference; greedy decoding.

    `read` are the words that the encoder reads in their place, where those are others.
    """
    written = generate(model, list(read or words), n_new=N_CTX - 2).texts
    wrong = length = 0
    for word, said in zip(words, written, strict=True):
        references = [reference.split() for reference in short_words("held out")[word]]
        errors, n = min(((edit_distance(said.split(), one), len(one)) for one in references), key=lambda pair: pair[0] / pair[1])
        wrong, length = wrong + errors, length + n
    return wrong / length

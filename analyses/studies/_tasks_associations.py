"""Which value went with this key? Pairs of two tokens, then every key once more: recall of what was read once.

Key and value are tokens of their own, and values are drawn anew in each sequence, so that the answer is nowhere but in the
text: multi-query associative recall (Arora et al. 2024).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from analyses.studies._drawn import Drawn
from analyses.studies._recurrent import right, rival
from analyses.studies._training import BASE, Learnt, learn, recipe_of
from model.training.objectives import Batch, Exercise
from model.training.randomness import generator_of

N_KEYS, N_VALUES = 16, 16
CHANCE = 1 / N_VALUES
LESSONS, TESTS = tuple(range(2, 13)), (4, 8, 12)
"""pairs of a sequence in training: few of them are learnt first, and help with more; and in the end"""
CONFIG = dataclasses.replace(BASE, d_vocab=N_KEYS + N_VALUES, n_ctx=3 * N_KEYS, tied_embeddings=False, embed_scale=BASE.d_model**0.5, positions="rotary")
"""the model of this task"""


@dataclass(frozen=True, kw_only=True)
class Associations(Drawn):
    """`n_batches` of (tokens, mask): pairs of a key (0 to 15) and a value (16 to 31), then the keys in another order.

    Keys of a sequence differ. Every batch has as many pairs as is drawn from `n_pairs`. Batch i is drawn from the seed and i alone.

    >>> tokens, _ = Associations(n_batches=1, batch=1, n_pairs=(3,), seed=0)[0]
    >>> tokens[0, 0:6:2].sort().values.tolist() == tokens[0, 6:].sort().values.tolist()
    True
    """

    n_batches: int
    batch: int
    n_pairs: tuple[int, ...]
    seed: int

    def drawn(self, i: int) -> Batch:
        generator = generator_of(self.seed, "associations", *self.n_pairs, i)
        n = self.n_pairs[int(torch.randint(len(self.n_pairs), (), generator=generator))]
        keys = torch.rand(self.batch, N_KEYS, generator=generator).argsort(1)[:, :n]
        values = N_KEYS + torch.randint(N_VALUES, keys.shape, generator=generator)
        asked = keys.gather(1, torch.rand(keys.shape, generator=generator).argsort(1))
        tokens = torch.cat((torch.stack((keys, values), dim=2).flatten(1), asked), dim=1)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class ValueOfKey:
    """At the last third: the value that followed this key.

    >>> exercise = ValueOfKey()((torch.tensor([[3, 20, 5, 30, 5, 3]]), None), torch.Generator())
    >>> exercise.answers[exercise.counted]
    tensor([30, 20])
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        n = tokens.shape[1] // 3
        keys, values, asked = tokens[:, 0 : 2 * n : 2], tokens[:, 1 : 2 * n : 2], tokens[:, 2 * n :]
        where = (asked[:, :, None] == keys[:, None, :]).long().argmax(-1)
        answers = torch.cat((tokens[:, : 2 * n], values.gather(1, where)), dim=1)
        counted = torch.zeros_like(tokens, dtype=torch.bool)
        counted[:, 2 * n :] = True
        return Exercise((tokens, mask), answers, counted)


def named_most(batch: Batch) -> float:
    """Share of right answers of a rule that counts and recalls nothing: whatever the key, the value that was read most often.

    >>> named_most((torch.tensor([[3, 20, 5, 20, 7, 30, 7, 5, 3]]), None)) == 2 / 3
    True
    """
    exercise = ValueOfKey()(batch, torch.Generator())
    n = batch[0].shape[1] // 3
    most = batch[0][:, 1 : 2 * n : 2].mode(1).values
    return float((exercise.answers[:, 2 * n :] == most[:, None]).double().mean())


def learn_associations(arm: str, *, seed: int, steps: int, n_test: int = 200) -> tuple[Learnt, dict[int, tuple[float, float]]]:
    """A network that is taught the task with 2 to 12 pairs; by their number on new sequences its share of right answers, and that of `named_most`."""
    lessons = Associations(n_batches=steps, batch=32, n_pairs=LESSONS, seed=seed)
    tests = {n: Associations(n_batches=1, batch=n_test, n_pairs=(n,), seed=seed + 10_000) for n in TESTS}
    model = rival(arm, CONFIG, seed)
    learnt = learn(model, lessons, ValueOfKey(), dataclasses.replace(recipe_of(steps), seed=seed), validation=tests[TESTS[0]])
    found = {}
    for n, test in tests.items():
        hits, asked = right(model, test[0], ValueOfKey())
        found[n] = float(hits[asked].double().mean()), named_most(test[0])
    return learnt, found

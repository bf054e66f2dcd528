"""How does a Transformer generate? Which tokens does the next one depend on, and does every token take a pass of the model?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._tasks_drafts import ngram_draft, write_checked
from analyses.studies._verdict import Prediction
from model import Greedy, Sampling, Transformer, generate, load_model
from model.zoo import _characters
from probes.metrics import token_losses
from reports import Bars, Figure, Lines, Series, Table

PROMPT, LENGTH = 28, 128
"""characters of a prompt, and of the longest text that the model reads"""
RULES = {
    "likeliest": Greedy(), "top 10": Sampling(top_k=10), "top 0.9": Sampling(top_p=0.9), "temperature 0.7": Sampling(temperature=0.7), "temperature 1": Sampling(),
}  # fmt: skip
PROSE = "prose itself"
CONTEXTS = (4, 8, 16, 32, 64, 96)
"""characters that are read before the one that is predicted"""
NEAR = 16
REPEATED = 8
"""characters in a row that count as repeated where they stood in the text before"""


@dataclass(frozen=True, kw_only=True)
class Generation(Study):
    number: ClassVar[int] = 29
    name: ClassVar[str] = "generation"
    question: ClassVar[str] = "How does a Transformer generate text?"
    popular: ClassVar[str] = "One token at a time, each from those before."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="a token depends on those before it alone", quantity="change of the logits by what follows", relation="==", threshold=0.0, margin=1e-5),
        Prediction(says="on all of them", quantity=f"gained from what is more than {NEAR} characters back", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="one token at a time: a pass of the model for each", quantity="passes per token with a draft", relation="==", threshold=1.0, margin=0.05),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="with a draft the same text is written",
            quantity="share of tokens that are the same with a draft",
            relation=">",
            threshold=0.95,
        ),
        Prediction(
            says="with kept keys and values the same text is written",
            quantity="share of tokens that are the same without the cache",
            relation=">",
            threshold=0.95,
        ),
    )
    method: ClassVar[str] = (
        "The shipped character model (0.6 M parameters, trained on prose) reads held-out prose. What follows: the largest change of the logits of the first half of a text, over "
        "the largest logit, when the second half is another. What is far back: the loss of characters of which the model reads all before, or the last 16 alone. Draft: the "
        "likeliest token each time, written one by one with a cache of keys and values, without it, and with the continuations that an n-gram table of the training prose "
        "guesses, four tokens at a time: a pass of the model checks the guess and keeps it as far as it is what the model would write. Rules: mean log-probability, and share "
        f"of runs of {REPEATED} characters that stood in the text before, of what five rules write behind the same prompts, and of the prose itself."
    )
    scale: ClassVar[str] = "0.6 M parameters, texts of at most 128 characters"
    limits: ClassVar[str] = (
        "One model, whose context ends at 128 characters: how text degenerates over thousands of tokens, or after instruction tuning, is not shown. A pass that checks a guess reads more tokens, "
        "so that fewer passes save time only where a pass costs about the same for one token as for five. Models that fill a whole text in at once (diffusion) are not here."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners", "Holtzman et al. 2020, The Curious Case of Neural Text Degeneration",
        "Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_texts": 6, "n_prompts": 2, "n_new": 12},
        "default": {"n_texts": 150, "n_prompts": 32, "n_new": 100},
        "full": {"n_texts": 165, "n_prompts": 160, "n_new": 100},
    }

    n_texts: int = 150
    """held-out pieces of 128 characters that are read"""
    n_prompts: int = 32
    """held-out beginnings of 28 characters behind which is written"""
    n_new: int = 100
    """characters that are written behind each"""

    def measure(self) -> tuple[list[Effect], Tables]:
        model = load_model("chars").eval()
        tokens = torch.cat([batch[0] for batch in _characters.held_out(self.n_texts)])
        prompts = tokens[: self.n_prompts, :PROMPT]
        context, one_by_one = _losses_by_context(model, tokens), generate(model, prompts, n_new=self.n_new, stop=None).tokens
        again = generate(model, prompts, n_new=self.n_new, stop=None, use_cache=False).tokens
        drafts = self._drafted(model, prompts, one_by_one)
        rules = pd.DataFrame([row for name in (*RULES, PROSE) for row in self._written(model, name, tokens[: self.n_prompts])])
        repeated = rules.pivot(index="text", columns="rule", values="repeated")
        effects = [
            Effect.exact("change of the logits by what follows", _change_by_what_follows(model, tokens)),
            Effect.over_examples(
                f"gained from what is more than {NEAR} characters back", context[NEAR] - context[max(CONTEXTS)], "nats", seed=self.seed
            ),
            Effect.over_examples("passes per token with a draft", drafts.passes / self.n_new, seed=self.seed),
            Effect.over_examples("share of tokens that are the same with a draft", drafts.same, seed=self.seed),
            Effect.over_examples(
                "share of tokens that are the same without the cache", (one_by_one == again).double().mean(1).numpy(), seed=self.seed
            ),
            *(Effect.over_examples(f"repeated, {name} minus prose", repeated[name] - repeated[PROSE], seed=self.seed) for name in RULES),
        ]
        lengths = pd.DataFrame([{"read": n, "loss": float(context[n].mean())} for n in CONTEXTS])
        return effects, {"contexts": _contexts_table(lengths), "drafts": _drafts_table(drafts), "rules": _rules_table(rules)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        change, gained, passes = (effects[one.quantity].estimate for one in self.predictions)
        greedy, drawn = (effects[f"repeated, {name} minus prose"].estimate for name in ("likeliest", "temperature 1"))
        return (
            f"What follows changes no logit (by {change:.0e}), and what is more than {NEAR} characters back is worth {gained:.2f} nats. But the same text, token for token, takes "
            f"{passes:.2f} passes of the model per token when a table of n-grams guesses ahead: one token at a time is a way to write, not a need. The likeliest token each time repeats "
            f"itself {greedy:+.0%} more than prose, drawn tokens {drawn:+.0%}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        contexts, rules, drafts = (tables[name].frame for name in ("contexts", "rules", "drafts"))
        names = [*RULES, PROSE]
        repeated, spread = rules.groupby("rule").repeated.mean()[names], rules.groupby("rule").log_probability.mean()[names]
        counts = drafts.passes.to_numpy(float) / self.n_new
        return (
            Lines(
                name="contexts", title="Loss of the next character, by how much is read",
                caption=f"Loss of held-out characters of which so many before are read, n = {self.n_texts} pieces.", alt=", ".join(f"{row.loss:.2f} nats after {row.read}" for row in contexts.itertuples()),
                x=contexts["read"].to_numpy(float), series={"chars": Series(y=contexts.loss.to_numpy())}, x_label="characters read", y_label="nats per character", log_x=True, markers=True,
            ),
            Bars(
                name="repeated", title="How often four characters come again, by how tokens are chosen",
                caption=f"Share of runs of {REPEATED} characters that stood in the text before; mean log-probability in brackets. {self.n_new} characters behind {self.n_prompts} prompts.",
                alt=", ".join(f"{name} {repeated[name]:.3f}" for name in names), labels=[f"{name} ({spread[name]:.2f})" for name in names], values=repeated.to_numpy(), unit="share repeated",
            ),
            Bars(
                name="passes", title=f"With guesses to check the same text takes {counts.mean():.2f} passes per token",
                caption=f"Passes of the model over new tokens, mean of {self.n_prompts} prompts with the smallest and largest; the texts are the same.",
                alt=f"One by one 1, with a draft {counts.mean():.2f}.", labels=["one by one", "with a draft"], values=np.array([1.0, counts.mean()]), low=np.array([1.0, counts.min()]),
                high=np.array([1.0, counts.max()]), unit="passes per token",
            ),
        )  # fmt: skip

    def _drafted(self, model: Transformer, prompts: Tensor, one_by_one: Tensor) -> pd.DataFrame:
        """Passes of every text with a draft, and the share of its tokens that are those of one at a time."""
        draft, rows = ngram_draft(_characters.prose_tokens(0).tolist()), []
        for i, prompt in enumerate(prompts.tolist()):
            written, passes = write_checked(model, draft, prompt, n_new=self.n_new)
            same = np.mean([a == b for a, b in zip(written, one_by_one[i].tolist(), strict=True)])
            rows.append({"text": i, "passes": passes, "same": float(same)})
        return pd.DataFrame(rows)

    def _written(self, model: Transformer, rule: str, tokens: Tensor) -> list[dict[str, Any]]:
        """What a rule writes behind every prompt, or the prose that stands there."""
        if rule == PROSE:
            new = tokens[:, PROMPT : PROMPT + self.n_new]
            with torch.no_grad():
                log_p = -token_losses(model(tokens), tokens)[:, PROMPT - 1 : PROMPT - 1 + self.n_new]
        else:
            generator = torch.Generator().manual_seed(self.seed)
            generator = None if isinstance(RULES[rule], Greedy) else generator
            found = generate(model, tokens[:, :PROMPT], n_new=self.n_new, sampling=RULES[rule], generator=generator, stop=None)
            new, log_p = found.tokens, found.log_probabilities
        return [
            {"rule": rule, "text": i, "log_probability": float(log_p[i].mean()), "repeated": _repeated(row.tolist())}
            for i, row in enumerate(new)
        ]


@torch.no_grad()
def _losses_by_context(model: Transformer, tokens: Tensor) -> dict[int, np.ndarray]:
    """Nats of characters at four places of every piece, mean of the four, when so many before them are read."""
    places = (97, 105, 113, 121)
    found = {}
    for n in CONTEXTS:
        losses = [token_losses(model(tokens[:, place - n : place + 1]), tokens[:, place - n : place + 1])[:, -1] for place in places]
        found[n] = torch.stack(losses).double().mean(0).numpy()
    return found


@torch.no_grad()
def _change_by_what_follows(model: Transformer, tokens: Tensor) -> float:
    """The largest change of a logit of the first half when the second half is that of another piece, over the largest logit."""
    half = LENGTH // 2
    other = torch.cat((tokens[:, :half], tokens.roll(1, dims=0)[:, half:]), dim=1)
    logits, changed = model(tokens)[:, :half], model(other)[:, :half]
    return float((logits - changed).abs().max() / logits.abs().max())


def _repeated(tokens: list[int]) -> float:
    """Share of runs of 8 that stood in the text before."""
    runs = [tuple(tokens[i : i + REPEATED]) for i in range(len(tokens) - REPEATED + 1)]
    return 1 - len(set(runs)) / len(runs)


def _contexts_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "Loss by what is read.",
        read=("characters", "before the one that is predicted"),
        loss=("nats per character", "mean over held-out pieces"),
    )


def _drafts_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "Every text with a draft.",
        text=("", "prompt"),
        passes=("passes", "of the model"),
        same=("1", "share of tokens that are those of one at a time"),
    )


def _rules_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "What every rule writes.", rule=("", "which token is taken"), text=("", "prompt"), log_probability=("nats", "mean over the new characters, of the model's own distribution"),
        repeated=("1", f"share of runs of {REPEATED} characters that stood in the text before"),
    )  # fmt: skip


STUDY = Generation

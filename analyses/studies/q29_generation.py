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
from analyses.studies._tasks_writing import log_probabilities, repeated_runs, write_by_rules
from analyses.studies._verdict import Prediction
from model import Sampling, Transformer, generate, load_model
from model.zoo import _characters
from model.zoo._prose import halves
from probes.metrics import token_losses
from reports import Bars, Figure, Lines, Series, Table

PROMPT = 32
"""tokens behind which is written"""
RULES = {"greedy": Sampling(top_k=1), "top-k 40": Sampling(top_k=40), "top-p 0.95": Sampling(top_p=0.95), "temperature 1": Sampling()}
PROSE = "prose itself"
NEAR = 16
CONTEXTS = (4, NEAR, 32)
"""tokens that are read before the one that is predicted, beside all of them"""
BY_CHARACTERS = f"gained from what is more than {NEAR} characters back, character model"
PASSES = "passes per token with a draft, character model"
LARGE, SMALL = "parameters of the decoder that writes by rules", "parameters of the character model"
WRITTEN = "tokens written behind each beginning"
N_PLACES = 4
"""tokens of every text, in the second half of what follows its beginning, that are predicted so"""
ROUNDING = 1e-4
"""what may differ, over the largest logit, between two orders of the same sums in fp32 through thirty blocks"""


@dataclass(frozen=True, kw_only=True)
class Generation(Study):
    number: ClassVar[int] = 29
    name: ClassVar[str] = "generation"
    question: ClassVar[str] = "How does a Transformer generate text?"
    popular: ClassVar[str] = "One token at a time, each from those before; drawn, because the likeliest each time repeats itself."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="a token depends on those before it alone", quantity="change of the logits by what follows", relation="==", threshold=0.0, margin=1e-5),
        Prediction(says="and on those far back (SmolLM2)", quantity=f"gained from what is more than {NEAR} tokens back", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="one token at a time: a pass of the model for each (character model)", quantity=PASSES, relation="==", threshold=1.0, margin=0.05),
        Prediction(says="the likeliest each time repeats itself", quantity="rep-4, greedy minus prose", relation=">", threshold=0.1),
        Prediction(says="what is drawn does not", quantity="rep-4, temperature 1 minus prose", relation="<", threshold=0.1),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with a draft the same text is written", quantity="share of tokens that are the same with a draft", relation=">", threshold=0.95),
        Prediction(says="kept keys and values change nothing", quantity="change of log-probabilities by the cache", relation="==", threshold=0.0, margin=1e-3, unit="nats"),
        Prediction(says="the other texts of a batch change nothing", quantity="change of the logits by the batch", relation="==", threshold=0.0, margin=ROUNDING),
    )  # fmt: skip
    method: ClassVar[str] = (
        "Rules: a trained decoder writes behind the same beginnings of held-out prose by four rules (the likeliest token, top-k 40, top-p 0.95, temperature 1), and stands beside the "
        "prose that follows there, as many tokens of the same tokenizer. Mean log-probability of the new tokens in the model's own distribution, and rep-4: the share of runs of four "
        "tokens that stood in the new text before; paired with the prose behind the same beginning, bootstrap over beginnings. What follows: the largest change of the logits of "
        "two beginnings, over the largest logit, when other prose follows; batch: the same of one beginning, read alone or among the others; cache, on one text of each rule: the largest "
        "difference between log-probabilities while writing and in one pass over the whole text. What is far back: the loss of "
        f"tokens of which the model reads all before, or the last {NEAR} alone, by SmolLM2 and, as another reader, in characters by the character model. Draft, with the character model: the likeliest token each time, written one by one, and with the continuations that "
        "an n-gram table of the training prose guesses, four tokens at a time: a pass of the model checks the guess and keeps it as far as it is what the model would write."
    )
    scale: ClassVar[str] = (
        "SmolLM2-135M-Instruct for rules, exact facts and what is far back, 200 new tokens behind 8 beginnings of 32 (23 at full; at smoke the character model, 24 new ones); the 0.6 M-parameter "
        "decoder of characters that ships with prosect for drafts, at most 128 characters"
    )
    limits: ClassVar[str] = (
        "One small instruct model that goes on with nineteenth-century prose, without its chat template; 200 tokens, not thousands; end tokens do not end a text and are counted in the table. "
        "Prose that the model may have read in training. One k, one p, one draw for each beginning. What is far back is left out by a text that begins in mid-sentence, which costs something of its own. Rep-4 sees loops, not what makes no sense, at which Holtzman et al. also looked. A pass that checks a guess "
        "reads more tokens, so that fewer passes save time only where a pass costs about the same for one token as for five. Models that fill in a whole text at once (diffusion) are not here."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners", "Holtzman et al. 2020, The Curious Case of Neural Text Degeneration",
        "Welleck et al. 2020, Neural Text Generation with Unlikelihood Training (rep-n)", "Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"decoder": "chars", "n_prompts": 3, "n_new": 24, "n_texts": 6, "n_drafted": 2, "n_characters": 12},
        "default": {"decoder": "smollm2", "n_prompts": 8, "n_new": 200, "n_texts": 150, "n_drafted": 32, "n_characters": 96},
        "full": {"decoder": "smollm2", "n_prompts": 23, "n_new": 200, "n_texts": 165, "n_drafted": 96, "n_characters": 96},
    }

    decoder: str = "smollm2"
    """the decoder that writes by all rules, by its name"""
    n_prompts: int = 8
    """held-out beginnings behind which it writes"""
    n_new: int = 200
    """tokens that it writes behind each"""
    n_texts: int = 150
    """held-out pieces of 128 characters that the character model reads, another reader of what is far back"""
    n_drafted: int = 32
    """beginnings of 32 characters behind which the character model writes with a draft"""
    n_characters: int = 96
    """characters that it writes behind each"""

    def measure(self) -> tuple[list[Effect], Tables]:
        model, drafts = load_model(self.decoder).eval(), self._drafted()
        texts = self._prose(model)
        likely = log_probabilities(model, texts, self.n_new)
        rules, cache = self._written(model, texts, likely)
        context = _losses_by_context(model, texts, -likely)
        effects = [
            Effect.exact("change of the logits by what follows", _change_by_what_follows(model, texts)),
            self._gained(context, f"gained from what is more than {NEAR} tokens back"),
            Effect.over_examples(PASSES, drafts.passes / self.n_characters, seed=self.seed),
            Effect.over_examples("share of tokens that are the same with a draft", drafts.same, seed=self.seed),
            Effect.exact("change of log-probabilities by the cache", cache, "nats"),
            Effect.exact("change of the logits by the batch", _change_by_the_batch(model, texts)),
            Effect.exact(WRITTEN, self.n_new, "tokens"),
            *(Effect.exact(name, sum(p.numel() for p in one.parameters()), "parameters") for name, one in ((LARGE, model), (SMALL, load_model("chars")))),
            *self._against_prose(rules), self._gained_by_characters(),
        ]  # fmt: skip
        return effects, {"contexts": _contexts_table(context), "drafts": _drafts_table(drafts), "rules": _rules_table(rules)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        change, gained, passes = (effects[one.quantity] for one in self.predictions[:3])
        weak, same = effects[BY_CHARACTERS], effects["share of tokens that are the same with a draft"]
        large, small = (f"{effects[name].estimate / 1e6:.1f} M parameters" for name in (LARGE, SMALL))
        spared = ": not every token needs a pass of its own" if passes.high < 1 else ""
        greedy, drawn, likelier = (
            effects[name]
            for name in ("rep-4, greedy minus prose", "rep-4, temperature 1 minus prose", "log-probability, greedy minus prose")
        )
        return (
            f"What follows a text changes the logits on it by {change.estimate:.1g} of the largest. What is more than {NEAR} tokens back is worth {gained.estimate:.2f} nats [{gained.low:.2f}, {gained.high:.2f}] to "
            f"the decoder of {large}; what is more than {NEAR} characters back {weak.estimate:+z.3f} [{weak.low:+z.3f}, {weak.high:+z.3f}] to the character model. Where an n-gram table of its training prose guesses ahead, that "
            f"character model ({small}, the likeliest each time) takes {passes.estimate:.2f} passes per character, {same.estimate:.0%} of the characters the same as one at a time"
            f"{spared}. Over {effects[WRITTEN].estimate:.0f} tokens of the first decoder behind {greedy.n} "
            f"beginnings the share of runs of four that come again is, against prose, {greedy.estimate:+z.2f} [{greedy.low:+z.2f}, {greedy.high:+z.2f}] with the likeliest token each time "
            f"(log-probability {likelier.estimate:+z.1f} nats per token) and {drawn.estimate:+z.2f} [{drawn.low:+z.2f}, {drawn.high:+z.2f}] with drawn ones."
        )  # fmt: skip

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        contexts, rules, drafts = (tables[name].frame for name in ("contexts", "rules", "drafts"))
        counts, again = drafts.passes.to_numpy(float) / self.n_characters, rules.groupby("rule").repeated.mean()
        lengths = contexts.groupby("read", as_index=False).loss.mean()
        return (
            self._bars(rules, "repeated", f"Runs of four tokens that come again: greedy {again['greedy']:.0%}, prose {again[PROSE]:.0%}", "share repeated"),
            self._bars(rules, "log_probability", "How likely to the model is what every rule writes", "nats per token"),
            Lines(
                name="contexts", title="Loss of the next token, by how much is read",
                caption=f"Loss of {N_PLACES} held-out tokens in each of {self.n_prompts} texts of which so many before are read; the last point: all before, on the mean.",
                alt=", ".join(f"{row.loss:.2f} nats after {row.read:.0f}" for row in lengths.itertuples()), x=lengths["read"].to_numpy(float),
                series={self.decoder: Series(y=lengths.loss.to_numpy())}, x_label="tokens read", y_label="nats per token", log_x=True, markers=True,
            ),
            Bars(
                name="passes", title=f"With guesses to check the character model takes {counts.mean():.2f} passes per token",
                caption=f"Passes of the character model over new tokens, which are characters, with guesses of an n-gram table of its training prose; mean of {self.n_drafted} prompts with the smallest and largest.",
                alt=f"One by one 1, with a draft {counts.mean():.2f}.", labels=["one by one", "with a draft"], values=np.array([1.0, counts.mean()]), low=np.array([1.0, counts.min()]),
                high=np.array([1.0, counts.max()]), unit="passes per token",
            ),
        )  # fmt: skip

    def _bars(self, rules: pd.DataFrame, column: str, title: str, unit: str) -> Bars:
        """The mean of every rule with its interval over beginnings."""
        names = [*RULES, PROSE]
        found = [Effect.over_examples(name, rules[rules.rule == name][column], seed=self.seed) for name in names]
        return Bars(
            name=column.replace("_", "-"), title=title, caption=f"{self.n_new} tokens of {self.decoder} behind each of {self.n_prompts} beginnings, mean and 95 % interval over them.",
            alt=", ".join(f"{one.quantity} {one.estimate:.3f}" for one in found), labels=names, values=np.array([one.estimate for one in found]),
            low=np.array([one.low for one in found]), high=np.array([one.high for one in found]), unit=unit,
        )  # fmt: skip

    def _prose(self, model: Transformer) -> Tensor:
        """Held-out beginnings with what follows them (text, token)."""
        length, prose = PROMPT + self.n_new, torch.tensor(model.tokenizer.encode(halves()[1]))
        return prose[: self.n_prompts * length].view(self.n_prompts, length)

    def _gained(self, context: pd.DataFrame, quantity: str) -> Effect:
        """Loss of tokens of which only what is near is read minus that where all before is."""
        near, everything = (context[context["all"] == which].set_index("text") for which in (False, True))
        return Effect.over_examples(quantity, near[near["read"] == NEAR].loss - everything.loss, "nats", seed=self.seed)

    def _gained_by_characters(self) -> Effect:
        """The same by the character model, which is another reader."""
        model, pieces = load_model("chars").eval(), torch.cat([batch[0] for batch in _characters.held_out(self.n_texts)])
        losses = -log_probabilities(model, pieces, pieces.shape[1] - PROMPT, batch=len(pieces))
        return self._gained(_losses_by_context(model, pieces, losses), BY_CHARACTERS)

    def _drafted(self) -> pd.DataFrame:
        """Passes of every text with a draft, and the share of its tokens that are those of one at a time."""
        model = load_model("chars").eval()
        prompts = torch.cat([batch[0] for batch in _characters.held_out(self.n_drafted)])[:, :PROMPT]
        one_by_one = generate(model, prompts, n_new=self.n_characters, stop=None).tokens
        draft, rows = ngram_draft(_characters.prose_tokens(0).tolist()), []
        for i, prompt in enumerate(prompts.tolist()):
            written, passes = write_checked(model, draft, prompt, n_new=self.n_characters)
            same = np.mean([a == b for a, b in zip(written, one_by_one[i].tolist(), strict=True)])
            rows.append({"text": i, "passes": passes, "same": float(same)})
        return pd.DataFrame(rows)

    def _written(self, model: Transformer, texts: Tensor, likely: Tensor) -> tuple[pd.DataFrame, float]:
        """What every rule writes and the prose that stands there; what the cache changes in one text of each rule."""
        found = write_by_rules(model, texts[:, :PROMPT], RULES, n_new=self.n_new, generator=torch.Generator().manual_seed(self.seed))
        first = torch.stack([torch.cat((texts[0, :PROMPT], new[0])) for new, _ in found.values()])
        kept = torch.stack([log_p[0] for _, log_p in found.values()])
        change = float((log_probabilities(model, first, self.n_new) - kept).abs().max())
        found[PROSE] = texts[:, PROMPT:], likely
        end = model.tokenizer.eos_id
        rows = [
            {"rule": rule, "text": i, "log_probability": float(log_p[i].mean()), "repeated": repeated_runs(row), "ends": row.count(end)}
            for rule, (new, log_p) in found.items()
            for i, row in enumerate(new.tolist())
        ]
        return pd.DataFrame(rows), change

    def _against_prose(self, rules: pd.DataFrame) -> list[Effect]:
        """Every rule minus the prose behind the same beginning."""
        repeated, log_p = (rules.pivot(index="text", columns="rule", values=column) for column in ("repeated", "log_probability"))
        again = [Effect.over_examples(f"rep-4, {name} minus prose", repeated[name] - repeated[PROSE], seed=self.seed) for name in RULES]
        likelier = [
            Effect.over_examples(f"log-probability, {name} minus prose", log_p[name] - log_p[PROSE], "nats", seed=self.seed)
            for name in RULES
        ]
        return [*again, *likelier]


@torch.no_grad()
def _losses_by_context(model: Transformer, texts: Tensor, losses: Tensor) -> pd.DataFrame:
    """Nats of some tokens of every text, their mean, when so many before them are read; `losses` has those when all are (text, new)."""
    length = texts.shape[1]
    first = length - losses.shape[1]  # the first token of which there is a loss
    places = torch.linspace((first + length) // 2, length - 1, N_PLACES).long().tolist()
    found = {False: {}, True: {sum(places) / N_PLACES: losses[:, [place - first for place in places]]}}
    for n in CONTEXTS:
        windows = torch.cat([texts[:, place - n : place + 1] for place in places])  # place text, n + 1
        found[False][n] = token_losses(model(windows), windows)[:, -1].view(N_PLACES, -1).mT
    return pd.DataFrame([
        {"text": i, "read": float(n), "all": everything, "loss": float(loss)}
        for everything, by_read in found.items() for n, some in by_read.items() for i, loss in enumerate(some.double().mean(1))
    ])  # fmt: skip


@torch.no_grad()
def _change_by_what_follows(model: Transformer, texts: Tensor) -> float:
    """The largest change of a logit of a beginning when what follows is that of another text, over the largest logit."""
    two = texts[:2, : 4 * PROMPT]
    other = torch.cat((two[:, :PROMPT], two.roll(1, dims=0)[:, PROMPT:]), dim=1)
    logits, changed = model(two)[:, :PROMPT], model(other)[:, :PROMPT]
    return float((logits - changed).abs().max() / logits.abs().max())


@torch.no_grad()
def _change_by_the_batch(model: Transformer, texts: Tensor) -> float:
    """The largest change of a logit of a beginning when it is read alone and not among others, over the largest logit."""
    beginnings = texts[:, :PROMPT]
    among, alone = model(beginnings)[0], model(beginnings[:1])[0]
    return float((among - alone).abs().max() / alone.abs().max())


def _contexts_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Loss by what is read.", text=("", "held-out piece of prose"), read=("tokens", "before the one that is predicted; the mean where all are"),
        all=("", "is everything before it read?"), loss=("nats per token", "mean over places of the piece"),
    )  # fmt: skip


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
        frame, "What every rule writes.", rule=("", "which token is taken"), text=("", "beginning"), log_probability=("nats", "mean over the new tokens, of the model's own distribution"),
        repeated=("1", "rep-4: share of runs of four tokens that stood in the new text before"), ends=("tokens", "end tokens among the new ones, behind which the text goes on"),
    )  # fmt: skip


STUDY = Generation

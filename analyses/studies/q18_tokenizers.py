"""What are WordPiece and BPE? Which pairs do they merge, and do they give another vocabulary, other pieces, a better model?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, get_args

import pandas as pd
import torch

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._tasks_pieces import (
    UNKNOWN,
    Cut,
    Rule,
    followed,
    letters_of,
    library_bpe,
    library_wordpiece,
    longest_match,
    pieces_by,
    words,
)
from analyses.studies._training import BASE, LENGTH, character_model, learn, recipe_of
from analyses.studies._verdict import Prediction
from model.training import CausalLM
from model.zoo._prose import RandomWindows, chunks, unigram_loss
from reports import Bars, Figure, Lines, Series, Table

ARMS = ("BPE", "WordPiece", "likelihood")
"""the library's two, and pieces of the largest gain in likelihood, cut by longest match"""
RATE = 2e-3
"""peak learning rate: with the other studies' 0.003 some seeds end 0.1 bits above the others, which hides what the pieces do"""


@dataclass(frozen=True, kw_only=True)
class Tokenizers(Study):
    number: ClassVar[int] = 18
    name: ClassVar[str] = "tokenizers"
    question: ClassVar[str] = "What are WordPiece and BPE?"
    popular: ClassVar[str] = "BPE merges the most frequent pairs; WordPiece builds its vocabulary by maximum likelihood."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="BPE merges the most frequent pair", quantity="merges of BPE that take a most frequent pair", relation=">", threshold=0.95),
        Prediction(says="WordPiece merges for likelihood, not for frequency", quantity="merges of WordPiece with the largest likelihood minus most frequent", relation=">", threshold=0.0),
        Prediction(says="so their vocabularies differ", quantity="overlap of WordPiece with BPE", relation="<", threshold=0.9),
        Prediction(says="and likelihood gives the better model", quantity="gained by likelihood over WordPiece", relation=">", threshold=0.02, unit="bits per character"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="the model of byte pairs beats the frequencies of pieces",
            quantity="BPE minus unigram",
            relation="<",
            threshold=0.0,
            unit="bits per character",
        ),
    )
    method: ClassVar[str] = (
        "The library `tokenizers` learns BPE and WordPiece from the same prose, cut into the same lower-case words, to the same size. Beside them the three rules are "
        "written out, merge by merge: the most frequent pair; the largest gain in likelihood of a unigram model of the pieces, exactly; the count of the pair over "
        "the product of the counts of its parts. Merges: the share of the library's merges, in its own order, whose pair stood first by a rule at that moment, ties "
        "included. Overlap: Jaccard index of the pieces of two letters or more, which ties lower. Other cuts: share of kinds of words that two tokenizers "
        "cut differently (BPE by its merges in order, WordPiece by longest match). Small decoders learn the prose in each set of pieces; their held-out loss is said "
        "per character, blanks left out, since tokens of different sizes do not compare. The peak learning rate is "
        f"{RATE:g}: at 0.003 some seeds end 0.1 bits above the others."
    )
    scale: ClassVar[str] = "200,000 characters of prose, vocabularies of 300 to 4,000 pieces, decoders of 0.1 to 0.4 M parameters"
    limits: ClassVar[str] = (
        "WordPiece is what the most used open library trains; the trainer of BERT's vocabulary was never published, and may have been another. One English text; "
        "languages with longer words may cut otherwise."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Sennrich et al. 2016, Neural Machine Translation of Rare Words with Subword Units", "Schuster & Nakajima 2012, Japanese and Korean Voice Search",
        "Devlin et al. 2019, BERT", "Bostrom & Durrett 2020, Byte Pair Encoding is Suboptimal for Language Model Pretraining",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "d_vocab": 200, "sizes": (200, 300), "model_sizes": (300,)},
        "default": {"n_seeds": 3, "steps": 250, "d_vocab": 500, "sizes": (300, 500, 1000, 2000, 4000), "model_sizes": (300, 2000)},
        "full": {"n_seeds": 6, "steps": 400, "d_vocab": 1000, "sizes": (300, 500, 1000, 2000, 4000), "model_sizes": (300, 4000)},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 250
    """updates of each model"""
    d_vocab: int = 500
    """tokens of the vocabularies whose rule is asked for, and of the models"""
    sizes: tuple[int, ...] = (300, 500, 1000, 2000, 4000)
    """vocabularies in which the library's two are compared"""
    model_sizes: tuple[int, ...] = (300, 2000)
    """further vocabularies of BPE with which a model learns"""

    def measure(self) -> tuple[list[Effect], Tables]:
        rules, sizes = _rules(self.d_vocab), pd.DataFrame([_compared(d_vocab) for d_vocab in self.sizes])
        seeds = range(self.seed, self.seed + self.n_seeds)
        models = [(arm, self.d_vocab) for arm in ARMS] + [("BPE", d_vocab) for d_vocab in self.model_sizes if d_vocab != self.d_vocab]
        every = pd.DataFrame(each(_arm, [(arm, d_vocab, seed, self.steps) for seed in seeds for arm, d_vocab in models]))
        arms, pairs = every[every.d_vocab == self.d_vocab], every[every.arm == "BPE"]
        by_size, (few, *_, many) = pairs.pivot(index="seed", columns="d_vocab"), sorted(set(pairs.d_vocab))
        overlap, merges = (rules.set_index(["library", "rule"])[name] for name in ("overlap", "merges"))
        bits, unigram = (arms.pivot(index="seed", columns="arm", values=name) for name in ("bits", "unigram_bits"))
        effects = [
            Effect.exact("merges of BPE that take a most frequent pair", merges["BPE", "frequency"]),
            Effect.exact(
                "merges of WordPiece with the largest likelihood minus most frequent",
                merges["WordPiece", "likelihood"] - merges["WordPiece", "frequency"],
            ),
            Effect.exact("merges of WordPiece that take a most frequent pair", merges["WordPiece", "frequency"]),
            Effect.exact("merges of WordPiece that gain the most likelihood", merges["WordPiece", "likelihood"]),
            Effect.exact("overlap of WordPiece with the largest likelihood", overlap["WordPiece", "likelihood"]),
            Effect.exact("overlap of WordPiece with BPE", float(sizes.overlap.min())),
            Effect.exact("words cut differently, most", float(sizes.other_cuts.max())),
            Effect.exact("words cut differently, fewest", float(sizes.other_cuts.min())),
            Effect.over_seeds("gained by WordPiece over BPE", bits["BPE"] - bits["WordPiece"], "bits per character"),
            Effect.over_seeds("gained by likelihood over WordPiece", bits["WordPiece"] - bits["likelihood"], "bits per character"),
            Effect.over_seeds("gained per character by more pieces", by_size["bits"][few] - by_size["bits"][many], "bits per character"),
            Effect.over_seeds("loss per token by more pieces", by_size["nats_per_token"][many] - by_size["nats_per_token"][few], "nats"),
            Effect.over_seeds("BPE minus unigram", bits["BPE"] - unigram["BPE"], "bits per character"),
        ]
        return effects, {"rules": _rules_table(rules), "sizes": _sizes_table(sizes), "arms": _arms_table(every)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        same, pairs, frequent, likely, most, fewest, gained, other, by_size, per_token = (
            effects[name].estimate for name in (
                "overlap of WordPiece with BPE", "merges of BPE that take a most frequent pair", "merges of WordPiece that take a most frequent pair",
                "merges of WordPiece that gain the most likelihood",
                "words cut differently, most", "words cut differently, fewest", "gained by WordPiece over BPE", "gained by likelihood over WordPiece",
                "gained per character by more pieces", "loss per token by more pieces",
            )
        )  # fmt: skip
        return (
            f"{pairs:.0%} of the library's BPE merges take a most frequent pair, and {frequent:.0%} of its WordPiece merges, {likely:.0%} of which gain the most likelihood; "
            f"the two share {same:.0%} of their pieces. They cut {fewest:.0%} to {most:.0%} of all kinds of words differently; a model gains {gained:+z.3f} bits per character "
            f"by WordPiece's cuts, and {other:+z.3f} more by pieces that are truly chosen for likelihood. From the fewest pieces of BPE to the most it gains {by_size:+z.2f} "
            f"per character, while its loss per token changes by {per_token:+z.2f} nats: vocabularies compare by the character."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        rules, sizes, every = (tables[name].frame for name in ("rules", "sizes", "arms"))
        by, by_size = every[every.d_vocab == self.d_vocab].groupby("arm").bits, every[every.arm == "BPE"].groupby("d_vocab").mean(numeric_only=True)
        mean, low, high = (values[list(ARMS)].to_numpy() for values in (by.mean(), by.min(), by.max()))
        return (
            Bars(
                name="rules", title="Which rule the library's merges follow",
                caption=f"Share of the merges, in the library's order, whose pair stood first by each rule at that moment; vocabulary of {self.d_vocab}.",
                alt=", ".join(f"{row.library} and {row.rule} {row.merges:.2f}" for row in rules.itertuples()),
                labels=[f"{row.library}, {row.rule}" for row in rules.itertuples()], values=rules.merges.to_numpy(), unit="share of the merges",
            ),
            Lines(
                name="sizes", title="Do vocabularies and cuts agree, by size",
                caption="The library's BPE and WordPiece: overlap of their pieces, and share of kinds of words that they cut differently.",
                alt=", ".join(f"at {row.d_vocab} overlap {row.overlap:.3f}, other cuts {row.other_cuts:.2f}" for row in sizes.itertuples()), x=sizes.d_vocab.to_numpy(float),
                series={"overlap of pieces": Series(y=sizes.overlap.to_numpy()), "words cut differently": Series(y=sizes.other_cuts.to_numpy())},
                x_label="tokens of the vocabulary", y_label="share", log_x=True, markers=True,
            ),
            Bars(
                name="models", title="What a model learns from either set of pieces",
                caption=f"Held-out loss per character without blanks, vocabulary of {self.d_vocab}, mean of {self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{arm} {value:.3f}" for arm, value in zip(ARMS, mean, strict=True)), labels=list(ARMS), values=mean, low=low, high=high, unit="bits per character",
            ),
            Lines(
                name="model-sizes", title="The same models per character and per token, by the size of the vocabulary",
                caption=f"Held-out loss of decoders that read pieces of BPE, in bits, per character without blanks and per token; mean of {self.n_seeds} seeds.",
                alt=", ".join(f"at {n} {row.bits:.2f} per character, {row.nats_per_token / math.log(2):.2f} per token" for n, row in by_size.iterrows()),
                x=by_size.index.to_numpy(float), x_label="tokens of the vocabulary", y_label="bits", log_x=True, markers=True,
                series={"per character": Series(y=by_size.bits.to_numpy()), "per token": Series(y=by_size.nats_per_token.to_numpy() / math.log(2))},
            ),
        )  # fmt: skip


@cache
def _tokenizer(arm: str, d_vocab: int) -> tuple[tuple[str, ...], Cut]:
    """Pieces of two letters or more as they were learnt, and how they cut."""
    if arm == "BPE":
        return library_bpe(d_vocab)
    if arm == "WordPiece":
        return library_wordpiece(d_vocab)
    pieces = pieces_by("likelihood", len(_tokenizer("WordPiece", d_vocab)[0]))
    return pieces, longest_match(_numbered(pieces))


def _numbered(pieces: Iterable[str]) -> dict[str, int]:
    """Every letter and piece with a number, the unknown one first."""
    letters = {letter for word in words(0) for letter in letters_of(word)}
    return {piece: i for i, piece in enumerate([UNKNOWN, *sorted(letters | set(pieces))])}


def _jaccard(first: Iterable[str], second: Iterable[str]) -> float:
    one, other = set(first), set(second)
    return len(one & other) / len(one | other)


def _rules(d_vocab: int) -> pd.DataFrame:
    """How well the library's two agree with the rules."""
    library = {arm: _tokenizer(arm, d_vocab)[0] for arm in ARMS[:2]}
    found = {rule: pieces_by(rule, len(library["WordPiece"])) for rule in get_args(Rule)}
    return pd.DataFrame(
        [
            {"library": arm, "rule": rule, "merges": followed(library[arm])[rule], "overlap": _jaccard(library[arm], found[rule])}
            for arm in library
            for rule in found
        ]
    )


def _compared(d_vocab: int) -> dict[str, Any]:
    """The library's two at one size, on the kinds of words that they learnt from."""
    (byte_pairs, cut_pairs), (word_pieces, cut_words) = (_tokenizer(arm, d_vocab) for arm in ARMS[:2])
    kinds = sorted(set(words(0)))
    cuts = [(cut_pairs(word), cut_words(word)) for word in kinds]
    per_word = [sum(len(pair[i]) for pair in cuts) / len(kinds) for i in range(2)]
    return {
        "d_vocab": d_vocab, "overlap": _jaccard(byte_pairs, word_pieces), "other_cuts": sum(one != other for one, other in cuts) / len(kinds),
        "bpe_pieces_per_word": per_word[0], "wordpiece_pieces_per_word": per_word[1],
    }  # fmt: skip


def _arm(arm: str, d_vocab: int, seed: int, steps: int) -> dict[str, Any]:
    """A model of the pieces: its held-out loss per character, and that of their frequencies."""
    pieces, cut = _tokenizer(arm, d_vocab)
    ids = _numbered(pieces)
    learnt_from, held_out = (torch.tensor([ids[piece] for word in words(half) for piece in cut(word)]) for half in range(2))
    recipe = recipe_of(steps, learning_rate=RATE, seed=seed)
    lessons = RandomWindows(learnt_from, n_batches=steps, batch=16, length=LENGTH, seed=seed)
    test = chunks(held_out, batch=64, length=LENGTH)
    model = character_model(dataclasses.replace(BASE, d_vocab=len(ids)), seed)
    learnt = learn(model, lessons, CausalLM(), recipe, validation=test)
    asked = torch.cat([tokens[:, 1:].flatten() for tokens, _ in test]).tolist()
    length = {i: len(piece.removeprefix("##")) if piece != UNKNOWN else 1 for piece, i in ids.items()}
    per_character = len(asked) / sum(length[i] for i in asked) / math.log(2)
    return {
        "arm": arm, "d_vocab": d_vocab, "seed": seed, "bits": learnt.loss * per_character, "unigram_bits": unigram_loss(learnt_from.tolist(), asked, len(ids)) * per_character,
        "nats_per_token": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


def _rules_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "Which rule does the library follow?",
        library=("", "tokenizer"),
        rule=("", "which pair is merged next"),
        merges=("1", "share of the library's merges, in its order, whose pair stood first by the rule at that moment; ties count"),
        overlap=("1", "Jaccard index of the pieces of two letters or more"),
    )


def _sizes_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "The library's BPE and WordPiece at every size.", d_vocab=("tokens", "of the vocabulary"), overlap=("1", "Jaccard index of the pieces of two letters or more"),
        other_cuts=("1", "share of kinds of words that are cut differently"), bpe_pieces_per_word=("pieces", "of a kind of word, BPE"),
        wordpiece_pieces_per_word=("pieces", "of a kind of word, WordPiece"),
    )  # fmt: skip


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", arm=("", "set of pieces"), d_vocab=("tokens", "of the vocabulary"), seed=("", "of weights and data"), bits=("bits per character", "held-out loss, blanks left out"),
        unigram_bits=("bits per character", "of a guess from the frequencies of pieces"), nats_per_token=("nats per token", "not to be compared between arms"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = Tokenizers

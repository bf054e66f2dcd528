"""Do the parts of the stream add up to the answer, and does the logit lens say where the right answer stands?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from analyses import _residual_answer_figures as figures
from analyses._anatomy import sides
from analyses._corpus import load_corpus
from analyses._residual_attribution import (
    attributable,
    contribution_frames,
    contributions,
)
from analyses._residual_inputs import example as first_text
from analyses._residual_lens_choices import NO_TARGET, lens_choices, targets_of
from analyses.residual_stream import ResidualStream
from model import Transformer, TransformerConfig, wrap
from model.zoo.planted_induction import planted_induction
from probes import Edit, intervene, zero
from probes.statistics.logit_lens import logit_lens
from reports import CircuitGraph, Lines, Waterfall
from tests.analyses.test_residual_stream_kinds import (
    SMALL,
    corpus_of,
    encoder,
    two_stacks,
)
from tests.conftest import example, hugging_face

FAMILIES = ["gpt2-0", "llama-1", "qwen3-0", "gpt_neox-0", "gptj-0", "granite-0", "gemma2-0", "olmo2-0", "t5-0", "opt-0"]
"""layer and RMS norms, grouped heads, parallel blocks, multipliers, sandwich and output norms, capped logits, biases, two stacks"""


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_contributions_add_up_to_the_logit_difference(name: str, padding: str) -> None:
    family, _, number = name.partition("-")
    model = wrap(hugging_face(family, int(number)))
    inputs = example(model, padding)
    d_vocab = sides(model)[-1].config.d_vocab
    answer, other = torch.tensor([1, 2, 3]) % d_vocab, torch.tensor([4, 5, 6]) % d_vocab
    found = contributions(model, inputs, answer, other)
    scale = found.values.abs().sum(0)
    assert found.values.shape == (len(found.parts), 3) and len(found.layers) == len(found.parts)
    assert ((found.values.sum(0) - found.measured).abs() <= 1e-4 * found.measured.abs() + 1e-6 * scale).all()
    logits = model(*inputs)  # the measured difference is that of the last real token, whichever side was padded
    last = [int(mask.nonzero().max()) for mask in inputs[-1]]
    plain = torch.stack([logits[i, at, [answer[i], other[i]]] for i, at in enumerate(last)])
    if model.unembed.cap is None:
        torch.testing.assert_close(found.measured.float(), plain[:, 0] - plain[:, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "rms", "batch", "none"])
def test_a_part_is_what_is_missing_without_it_while_the_norm_stays(norm: str) -> None:
    """The last feed-forward network's contribution is what its ablation takes from a head whose norm divides by the same scale."""
    config = TransformerConfig(
        n_layers=2, d_model=12, n_heads=2, d_head=6, d_mlp=20, d_vocab=15, n_ctx=8, norm=norm, tied_embeddings=False, unembed_bias=True
    )
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    for name, value in model.named_buffers():
        if name.endswith(("mean", "variance")):
            value.add_(torch.rand(value.shape, generator=generator))
    tokens, answer, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([5]), torch.tensor([6])
    found = contributions(model, (tokens,), answer, other)
    assert float(found.values.sum()) == pytest.approx(float(found.measured), rel=1e-4)
    assert found.parts[-1] == "biases" and found.layers[-1] == 2
    if norm in ("batch", "none"):  # linear: there is no scale that an ablation could change
        with intervene(model, Edit("blocks.1.mlp_out", zero())):
            without = contributions(model, (tokens,), answer, other).measured
        assert float(found.values[found.parts.index("MLP", 3)]) == pytest.approx(float(found.measured - without), rel=1e-4)


def test_the_planted_head_writes_the_whole_answer() -> None:
    found = contributions(planted_induction(), (torch.tensor([[7, 3, 9, 7]]),), torch.tensor([3]), torch.tensor([9]))
    by_part = dict(zip(zip(found.layers, found.parts, strict=True), found.values[:, 0].tolist(), strict=True))
    assert by_part.pop((1, "attention")) == pytest.approx(20, rel=0.01) and all(abs(value) < 0.1 for value in by_part.values())


def test_what_is_no_sum_is_refused() -> None:
    post = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=8, d_vocab=9, n_ctx=4, norm_place="post"))
    assert not attributable(post) and not attributable(encoder(head="mlm"))
    with pytest.raises(ValueError, match="needs a last state that is a sum of its parts"):
        contributions(post, (torch.tensor([[1, 2]]),), torch.tensor([1]), torch.tensor([2]))


def test_two_stacks_are_asked_for_their_own_first_choice() -> None:
    model = two_stacks()
    parts, check = contribution_frames(model, corpus_of(model), seed=0)
    assert set(parts["part"]) == {"embedding", "attention", "cross-attention", "MLP", "biases"} and set(parts["stack"]) == {"decoder"}
    assert check["measured"].item() >= 0 and abs(check["error"].item()) < 1e-4 * check["measured"].item() + 1e-5
    assert contribution_frames(encoder(norm_place="pre", final_norm=True), corpus_of(encoder()), seed=0) is None


@pytest.mark.parametrize("kind", ["decoder", "two stacks", "masked"])
def test_choices_and_ranks_are_those_of_the_whole_distribution(kind: str, glasslm: Transformer) -> None:
    model = {"decoder": lambda: glasslm, "two stacks": two_stacks, "masked": lambda: encoder(head="mlm")}[kind]()
    corpus = load_corpus(model) if kind == "decoder" else corpus_of(model)
    inputs = first_text(model, corpus, seed=0)
    targets = targets_of(model, corpus, inputs)
    choices, ranks = lens_choices(model, inputs, targets, k=3)
    lens = logit_lens(model, *inputs)
    first = choices[choices.choice == 1].pivot(index="state", columns="position", values="probability").to_numpy()
    np.testing.assert_allclose(first, lens.top_probability[:, 0].numpy(), rtol=1e-4)
    assert (np.diff(choices.probability.to_numpy().reshape(-1, 3)) <= 0).all()
    logits = model(*inputs)[0]
    for row in ranks[ranks.state == ranks.state.max()].itertuples():
        token = targets[0, row.position]
        assert row.rank == int((logits[row.position].argsort(descending=True) == token).nonzero()) + 1
        assert row.probability == pytest.approx(float(logits[row.position].softmax(-1)[token]), rel=1e-4)
    if kind == "decoder":
        assert ranks[ranks.state == 0].target.tolist() == model.to_str_tokens(inputs[0][0, 1:]) + [corpus.prompts[0].target]
    if kind == "two stacks":
        written = inputs[1][0]
        assert targets[0].tolist() == [*written[1:].tolist(), NO_TARGET] and ranks.position.max() == len(written) - 2
    if kind == "masked":
        hidden = (inputs[0][0] == 3).nonzero()[:, 0].tolist()
        assert sorted(ranks.position.unique()) == hidden and "[MASK]" not in set(ranks.target)


def test_padding_on_either_side_has_the_same_choices() -> None:
    model = two_stacks()
    source, target, source_mask, target_mask = model.tokenize(["w1 w2 w3"], target=["w4 w5"])

    def padded(side: str) -> tuple[torch.Tensor, ...]:
        room = (2, 0) if side == "left" else (0, 2)
        return tuple(nn.functional.pad(part, room) for part in (source, target, source_mask, target_mask))

    frames = []
    for inputs in ((source, target, source_mask, target_mask), padded("left"), padded("right")):
        choices, ranks = lens_choices(model, inputs, targets_of(model, corpus_of(model), inputs))
        frames.append((choices.token.tolist(), choices.position.tolist(), ranks.target.tolist(), ranks["rank"].tolist()))
    assert frames[0] == frames[1] == frames[2]


def test_the_analysis_shows_lens_ranks_and_waterfall(glasslm: Transformer) -> None:
    result = ResidualStream(**SMALL).run(glasslm, load_corpus(glasslm))
    drawn = {figure.name: figure for figure in result.figures}
    fall, ranks, asked = drawn["contributions"], drawn["logit-lens-target-rank"], result.tables["contributions_answer"].frame.iloc[0]
    assert isinstance(fall, Waterfall) and isinstance(ranks, Lines) and not any(isinstance(f, CircuitGraph) for f in result.figures)
    assert fall.values.sum() == pytest.approx(fall.total, rel=1e-4) and fall.total == asked.measured
    assert (fall.part, ranks.part, drawn["logit-lens-example"].part) == ("contributions", "lens", "lens")
    first = load_corpus(glasslm).contrasts(1)[0]
    ids = [glasslm.tokenizer.encode(text)[0] for text in (first.target, first.foil)]
    logits = glasslm(glasslm.tokenize([first.prompt])[0])[0, -1]
    assert fall.total == pytest.approx(float(logits[ids[0]] - logits[ids[1]]), rel=1e-4)


def test_many_layers_are_summed_up_and_add_up_all_the_same() -> None:
    config = TransformerConfig(n_layers=60, d_model=8, n_heads=2, d_head=4, d_mlp=8, d_vocab=9, n_ctx=16, tied_embeddings=False)
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    corpus = dataclasses.replace(corpus_of(encoder()), tokens=torch.arange(8) % 9, prompts=())
    parts, check = contribution_frames(model, corpus, seed=0)
    stacks = ResidualStream(n_chunks=1, length=4).measure(model, corpus)
    fall = figures.waterfall(stacks)
    assert len(parts) == 121 + (parts["part"] == "biases").sum() and len(fall.values) == 61 + (parts["part"] == "biases").sum()
    assert fall.kinds[1] == "layer" and fall.values.sum() == pytest.approx(check["total"].item(), rel=1e-6)

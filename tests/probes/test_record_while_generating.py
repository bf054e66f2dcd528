"""Does a recording of generation hold what one forward pass over the finished text shows, and do references act place by place?"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from model import EncoderDecoder, Generation, Transformer, generate, wrap
from probes import Activations, Edit, SiteError, intervene, mean, patch, record, record_gradients, resample, scale, zero
from tests.conftest import PADDING, example, hugging_face, relative
from tests.model.test_generation import DECODERS, decoder, two_stacks

Model = Transformer | EncoderDecoder
N_NEW = 4


def finished(inputs: tuple[Tensor, ...], got: Generation) -> tuple[Tensor, ...]:
    """What the model is called with to read the prompts and all new tokens but the last in one pass."""
    half = len(inputs) // 2
    tokens = torch.cat((inputs[half - 1], got.tokens[:, :-1]), dim=1)
    mask = torch.cat((inputs[-1], got.mask[:, :-1]), dim=1)
    return (tokens, mask) if half == 1 else (inputs[0], tokens, inputs[2], mask)


def agree(got: Activations, expected: Activations) -> None:
    assert set(got) == set(expected)
    for name in expected:
        a, b = got[name], expected[name]
        assert a.shape == b.shape, name
        assert torch.equal(a.isinf(), b.isinf()), name
        assert relative(a.masked_fill(a.isinf(), 0), b.masked_fill(b.isinf(), 0)) < 1e-5, name


@torch.no_grad()
@pytest.mark.parametrize("family", DECODERS)
def test_every_site_of_every_family_is_that_of_one_pass(family: tuple[str, int]) -> None:
    model = wrap(hugging_face(*family))
    for padding in PADDING:
        inputs = example(model, padding)
        plain = generate(model, inputs, n_new=N_NEW)
        with record(model, "*") as expected:
            model(*finished(inputs, plain))
        for use_cache in (True, False):
            with record(model, "*") as got:
                written = generate(model, inputs, n_new=N_NEW, use_cache=use_cache)
            assert torch.equal(written.tokens, plain.tokens)
            agree(got, expected)


@torch.no_grad()
@pytest.mark.parametrize("make", [decoder, two_stacks])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "shaw", "t5", "alibi", "rotary", "none"])
def test_every_position_scheme_with_rows_that_end(make, positions: str) -> None:
    model, n_ended = make(positions=positions, max_distance=5), 0
    for padding in ("left", "right"):
        inputs = example(model, padding)
        stop = int(generate(model, inputs, n_new=6).tokens[0, 2])
        for use_cache in (True, False):
            with record(model, "*") as got:
                written = generate(model, inputs, n_new=6, stop=stop, use_cache=use_cache)
            n_ended += int(not written.mask.all())
            with record(model, "*") as expected:
                model(*finished(inputs, written))
            agree(got, expected)
    assert n_ended or positions in ("sinusoidal", "none")
    with record(model, "logits") as got:  # every row ends at once: only the prompt is read
        generate(model, tuple(x[:1] for x in inputs), n_new=6, stop=list(range(31)))
    assert got["logits"].shape == (1, 11, 31)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_recording_sees_edits(use_cache: bool) -> None:
    model = decoder(positions="rotary")
    inputs = example(model, "left")
    edit = Edit("blocks.0.attn.pattern", scale(2.0), heads=[1], positions=[4, 12])
    with intervene(model, edit), record(model, "*") as got:
        written = generate(model, inputs, n_new=N_NEW, use_cache=use_cache)
    with intervene(model, edit), record(model, "*") as expected:
        model(*finished(inputs, written))
    agree(got, expected)
    mass = got["blocks.0.attn.pattern"][0].sum(-1)  # head query
    expected_mass = torch.ones_like(mass)
    expected_mass[1, [4, 12]] = 2.0
    assert torch.allclose(mass, expected_mass)


SITES = ["attn.z", "attn.k", "attn.pattern", "attn.scores", "resid_post", "mlp.post"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "positions", "padding"),
    [
        (decoder, "rotary", "left"),
        (decoder, "learned", "right"),
        (decoder, "alibi", "left"),
        (two_stacks, "t5", "right"),
        (two_stacks, "rotary", "none"),
    ],
)
def test_references_act_at_their_own_places(make, positions: str, padding: str) -> None:
    """Edited generation equals one edited pass over the finished text, for references as long as the text."""
    model, side = make(positions=positions), "decoder." if make is two_stacks else ""
    inputs = example(model, padding)
    other = (*(x.flip(0) for x in inputs[: len(inputs) // 2]), *inputs[len(inputs) // 2 :])
    long = finished(other, generate(model, other, n_new=N_NEW))
    sites = [f"{side}blocks.1.{site}" for site in SITES] + (
        [f"{side}blocks.1.cross_attn.{word}" for word in ("v", "pattern")] if side else []
    )
    with record(model, sites) as recorded:
        model(*long)
    for site in sites:
        heads = [1] if ".attn." in site else None
        for change in (mean(long), patch(recorded), resample(long, torch.Generator().manual_seed(0))):
            for place in (None, [[3], [9], [7, 12]]):
                edit = Edit(site, change, positions=None if site.endswith("_attn.v") else place, heads=heads)
                for use_cache in (True, False):
                    with intervene(model, edit):
                        with record(model, "logits") as got:
                            written = generate(model, inputs, n_new=N_NEW, use_cache=use_cache)
                        expected = model(*finished(inputs, written))
                    assert relative(got["logits"], expected) < 1e-5, (site, change, place)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("site", ["attn.z", "attn.pattern", "attn.scores", "resid_post"])
def test_a_recording_of_the_prompt_serves_at_the_prompts_places(site: str, use_cache: bool) -> None:
    model, name = decoder(positions="rotary"), f"blocks.1.{site}"
    inputs = example(model, "left")
    with record(model, name) as prompt:
        model(inputs[0].flip(0), inputs[1])
    edit = Edit(name, patch(prompt), positions=[7, 10])
    with intervene(model, edit), record(model, "logits") as got:
        written = generate(model, inputs, n_new=N_NEW, use_cache=use_cache)
    whole = finished(inputs, written)

    def by_hand(value: Tensor) -> Tensor:
        value = value.clone()
        nothing = -torch.inf if site.endswith("scores") else 0.0
        for place in (7, 10):
            if site in ("attn.pattern", "attn.scores"):
                value[:, :, place] = nothing
                value[:, :, place, :11] = prompt[name][:, :, place]
            else:
                value[:, place] = prompt[name][:, place]
        return value

    with intervene(model, Edit(name, by_hand)), record(model, "logits") as expected:
        model(*whole)
    assert relative(got["logits"], expected["logits"]) < 1e-5
    for positions in (None, [7, 11]):
        with pytest.raises(SiteError, match="it has 11 places, the text has more; name positions below 11"):
            with intervene(model, Edit(name, patch(prompt), positions=positions)):
                generate(model, inputs, n_new=N_NEW, use_cache=use_cache)
    assert all(site.window is None for site in model.sites().values())


@torch.no_grad()
def test_edits_of_beams_count_examples() -> None:
    """All beams of an example get its own edit: the best text is then that of the example alone."""
    for model in (decoder(positions="rotary"), two_stacks()):
        inputs, side = example(model, "right"), "" if isinstance(model, Transformer) else "decoder."
        half = len(inputs) // 2
        other = (*(x.flip(0) for x in inputs[:half]), *inputs[half:])
        with record(model, f"{side}blocks.0.attn.z") as recorded:
            model(*other)
        places, options = [[3], [5, 9], [12]], dict(n_new=N_NEW, n_beams=3)
        for use_cache in (True, False):
            with intervene(
                model,
                Edit(f"{side}blocks.0.attn_out", zero(), positions=places),
                Edit(f"{side}blocks.0.attn.z", patch(recorded), positions=4),
            ):
                got = generate(model, inputs, use_cache=use_cache, **options)
            for row in range(3):
                alone = {name: value[row : row + 1] for name, value in recorded.items()}
                with intervene(
                    model,
                    Edit(f"{side}blocks.0.attn_out", zero(), positions=places[row]),
                    Edit(f"{side}blocks.0.attn.z", patch(alone), positions=4),
                ):
                    expected = generate(model, tuple(x[row : row + 1] for x in inputs), use_cache=use_cache, **options)
                assert torch.equal(got.tokens[row], expected.tokens[0])


@torch.no_grad()
def test_what_a_recording_does_not_hold() -> None:
    model, two = decoder(), two_stacks()
    inputs = example(model)
    with pytest.raises(SiteError, match="blocks.0.attn.z cannot be recorded with n_beams=3: beams change places between passes"):
        with record(model, "blocks.*.attn.z"):
            generate(model, inputs, n_new=3, n_beams=3)
    with record(two, "encoder.blocks.0.resid_post") as a:  # the encoder reads each source once, whatever the beams
        generate(two, example(two), n_new=3, n_beams=3)
    assert a["encoder.blocks.0.resid_post"].shape == (3, 13, 18)

    def twice(first, second) -> None:
        with pytest.raises(SiteError, match=re.escape("embed fired a second time: one record holds one forward pass, or one text")):
            with record(model, "embed"):
                first()
                second()

    for use_cache in (True, False):
        twice(lambda: generate(model, inputs, n_new=2, use_cache=use_cache), lambda: generate(model, inputs, n_new=4, use_cache=use_cache))
        twice(lambda: model(*inputs), lambda: generate(model, inputs, n_new=2, use_cache=use_cache))
        twice(lambda: generate(model, inputs, n_new=2, use_cache=use_cache), lambda: model(*inputs))
    with pytest.raises(SiteError, match="embed is recorded with gradients, but generate computes none"):
        with record(model, "embed", gradients=True):
            generate(model, inputs, n_new=2)
    with pytest.raises(SiteError, match="record_gradients needs gradients"):
        with record_gradients(model, "embed"):
            generate(model, inputs, n_new=2)
    with pytest.raises(SiteError, match="mean needs a reference of the same length here: it has shape"):
        with intervene(model, Edit("blocks.0.attn.pattern", mean(inputs[0][:, :5]))):
            model(*inputs)
    assert all(site.window is None and not site.observed for site in model.sites().values())

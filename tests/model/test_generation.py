"""Does generation choose by the model's own distribution, whatever the cache, the padding and the number of beams?"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from model import EncoderDecoder, EncoderDecoderConfig, Greedy, Sampling, Span, Transformer, TransformerConfig, generate, load_model, wrap
from model.architectures import architectures
from model.context import KeyValueCache
from model.zoo import data_path
from probes import Edit, SiteError, intervene, scale, zero
from tests.conftest import FAMILIES, example, hugging_face, relative

SHAPE = dict(n_layers=2, d_model=18, n_heads=4, n_kv_heads=2, d_head=6, d_mlp=23, d_vocab=31, n_ctx=24)
ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"
POSITIONS = ["sinusoidal", "learned", "shaw", "t5", "alibi", "rotary", "none"]


def noisy(model: Transformer | EncoderDecoder, size: float = 0.4) -> Transformer | EncoderDecoder:
    """Weights large enough that every path matters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if name.endswith("gain") else size * noise)
    return model.eval()


def decoder(**changes) -> Transformer:
    return noisy(Transformer(TransformerConfig(**SHAPE | changes)))


def two_stacks(**changes) -> EncoderDecoder:
    shape = SHAPE | changes
    encoder = TransformerConfig(**shape | dict(causal=False, head="none"))
    return noisy(EncoderDecoder(EncoderDecoderConfig(encoder=encoder, decoder=TransformerConfig(**shape))))


@torch.no_grad()
def by_whole_passes(model: Transformer | EncoderDecoder, inputs: tuple[Tensor, ...], new: Tensor, real: Tensor) -> Tensor:
    """Log-probabilities of the next token before each new one, Float[batch new d_vocab], each row without padding, in one pass."""
    tokens, mask = inputs[len(inputs) // 2 - 1], inputs[-1]
    rows = []
    for i in range(len(tokens)):
        written = torch.cat((tokens[i, mask[i]], new[i, real[i]]))[None]
        before = (inputs[0][i : i + 1, inputs[2][i]],) if isinstance(model, EncoderDecoder) else ()
        log_p = model(*before, written).log_softmax(-1)[0, int(mask[i].sum()) - 1 : -1]
        rows.append(torch.cat((log_p, log_p.new_zeros(new.shape[1] - len(log_p), log_p.shape[-1]))))
    return torch.stack(rows)


def check_greedy(model: Transformer | EncoderDecoder, inputs: tuple[Tensor, ...], *, use_cache: bool, stop: int | None = None) -> float:
    """The largest difference between generation's log-probabilities and those of whole passes, having checked the choices."""
    got = generate(model, inputs, n_new=6, stop=stop, use_cache=use_cache)
    expected = by_whole_passes(model, inputs, got.tokens, got.mask)
    best = expected.max(-1).values
    chosen = expected.gather(-1, got.tokens.unsqueeze(-1))[..., 0]
    assert (best - chosen)[got.mask].max() < 1e-5
    return float((got.log_probabilities - chosen.masked_fill(~got.mask, 0.0)).abs().max())


DECODERS = [param for param in FAMILIES if architectures()[param.values[0][0]].model_type not in ("bert", "roberta", "distilbert")]


@pytest.mark.parametrize("family", DECODERS)
def test_every_family_writes_what_whole_passes_predict(family: tuple[str, int]) -> None:
    model = wrap(hugging_face(*family))
    for padding in ("none", "left", "right"):
        for use_cache in (True, False):
            assert check_greedy(model, example(model, padding), use_cache=use_cache) < 1e-5


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("span", [Span(), Span(kind="window", size=4), Span(kind="block", size=3)])
def test_every_position_scheme_and_span(positions: str, span: Span) -> None:
    one, two = decoder(positions=positions, span=span, max_distance=5), two_stacks(positions=positions, span=span, max_distance=5)
    for padding in ("none", "left", "right"):
        for model in (one, two):
            assert check_greedy(model, example(model, padding), use_cache=True, stop=5) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_cached_logits_equal_whole_logits_in_chunks(family: tuple[str, int], padding: str) -> None:
    model = wrap(hugging_face(*family))
    inputs = example(model, padding)
    half = len(inputs) // 2
    tokens, mask, whole = inputs[half - 1], inputs[-1], model(*inputs)
    for ends in (range(1, 12), (4, 5, 11)):  # single tokens, chunks
        cache, read, start = KeyValueCache(), [], 0
        for end in ends:
            chunk = tokens[:, start:end], mask[:, start:end]
            if half == 1:
                read.append(model(*chunk, cache=cache))
            else:
                state = model.decode(model.encode(inputs[0], inputs[2]), inputs[2], *chunk, cache=cache)
                for i in range(model.decoder.config.n_layers):
                    state = model.decoder.step(state, i)
                read.append(model.predict(state))
            start = end
        assert relative(torch.cat(read, dim=1)[mask], whole[mask]) < 1e-5


def test_stop_ends_a_row_and_pads_it() -> None:
    model = decoder()
    tokens, mask = example(model, "left")
    free = generate(model, (tokens, mask), n_new=8, stop=None)
    assert free.mask.all() and free.texts is None and len(free) == 3
    end = int(free.tokens[0, 2])
    got = generate(model, (tokens, mask), n_new=8, stop=[end])
    for row, (new, real) in enumerate(zip(got.tokens, got.mask, strict=True)):
        n = int(real.sum())
        assert real[:n].all() and torch.equal(new[:n], free.tokens[row, :n]) and (new[n:] == 0).all()
        assert (got.log_probabilities[row, n:] == 0).all() and end not in new[: n - 1]
        assert n == got.tokens.shape[1] or new[n - 1] == end
    assert int(got.mask[0].sum()) <= 3
    alone = generate(model, tokens[:1], n_new=8, stop=end)
    assert alone.tokens.shape == (1, int(got.mask[0].sum()))  # nothing is written behind the last end


@pytest.mark.parametrize("make", [decoder, two_stacks])
def test_beams_find_the_likeliest_text_of_all(make) -> None:
    """With as many beams as there are prefixes nothing is cut off: the result is that of trying every text."""
    model, n_new, end = make(d_vocab=4, n_ctx=20), 4, 2
    for use_cache in (True, False):
        inputs = example(model, "left", pos=3)
        got = generate(model, inputs, n_new=n_new, stop=end, n_beams=4 ** (n_new - 1), use_cache=use_cache)
        scores: list[dict[tuple[int, ...], float]] = [{} for _ in range(3)]
        for text in itertools.product(range(4), repeat=n_new):
            new = torch.tensor(text).expand(3, -1)
            log_p = by_whole_passes(model, inputs, new, torch.ones_like(new).bool()).gather(-1, new.unsqueeze(-1))[..., 0]
            n = text.index(end) + 1 if end in text else n_new
            for row in range(3):
                scores[row][text[:n]] = float(log_p[row, :n].sum())
        for row in range(3):
            best = max(scores[row], key=scores[row].get)
            assert tuple(got.tokens[row, got.mask[row]].tolist()) == best
            assert float(got.log_probabilities[row].sum()) == pytest.approx(scores[row][best], abs=1e-4)


def test_more_beams_are_no_less_likely_here_and_one_beam_is_greedy() -> None:
    model = two_stacks()
    inputs = example(model, "right")
    greedy, beams = generate(model, inputs, n_new=6), generate(model, inputs, n_new=6, n_beams=5)
    assert (beams.log_probabilities.sum(1) >= greedy.log_probabilities.sum(1) - 1e-5).all()
    assert torch.equal(beams.tokens, generate(model, inputs, n_new=6, n_beams=5, use_cache=False).tokens)
    chosen = by_whole_passes(model, inputs, beams.tokens, beams.mask).gather(-1, beams.tokens.unsqueeze(-1))[..., 0]
    assert (beams.log_probabilities - chosen).abs().max() < 1e-5


def test_sampling_draws_from_the_models_distribution() -> None:
    model = noisy(Transformer(TransformerConfig(**SHAPE | dict(d_vocab=6))), size=0.2)
    tokens = torch.tensor([[1, 2, 3]]).expand(4000, -1)
    expected = model(tokens[:1])[0, -1].detach()
    for sampling in (Sampling(), Sampling(temperature=0.5), Sampling(top_k=3), Sampling(top_p=0.6)):
        got = generate(model, tokens, n_new=1, sampling=sampling, generator=torch.Generator().manual_seed(0))
        counts = Counter(got.tokens[:, 0].tolist())
        frequency = torch.tensor([counts[i] / 4000 for i in range(6)])
        assert (frequency - sampling.probabilities(expected[None])[0]).abs().max() < 0.03
        assert (got.log_probabilities[:, 0] - expected.log_softmax(-1)[got.tokens[:, 0]]).abs().max() < 1e-5  # without temperature


def test_what_is_drawn_from() -> None:
    logits = torch.tensor([[0.4, 0.1, 0.3, 0.2]]).log()
    assert torch.allclose(Sampling(top_k=2).probabilities(logits), torch.tensor([[4 / 7, 0, 3 / 7, 0]]))
    assert torch.allclose(Sampling(top_p=0.65).probabilities(logits), torch.tensor([[4 / 7, 0, 3 / 7, 0]]))
    assert torch.allclose(Sampling(top_p=0.75).probabilities(logits), torch.tensor([[4 / 9, 0, 3 / 9, 2 / 9]]))
    assert torch.allclose(Sampling(top_p=1e-6).probabilities(logits), torch.tensor([[1.0, 0, 0, 0]]))
    assert torch.allclose(Sampling(top_k=9, top_p=1.0).probabilities(logits), logits.exp())
    assert torch.allclose(Sampling(temperature=0.5).probabilities(logits), logits.exp() ** 2 / (logits.exp() ** 2).sum())


def test_randomness_is_the_generators_alone() -> None:
    model, tokens = decoder(), torch.tensor([[1, 2, 3]])
    state = torch.get_rng_state()

    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return generate(model, tokens, n_new=12, sampling=Sampling(temperature=3.0), generator=generator).tokens[0].tolist()

    assert draw(0) == draw(0) != draw(1)
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("make", [decoder, two_stacks])
def test_an_edit_acts_in_the_pass_that_computes_its_place(make, padding: str) -> None:
    """Edited generation predicts what one edited pass over the finished sequence predicts, wherever the place is."""
    model = make(positions="rotary")
    inputs, side = example(model, padding), "decoder." if make is two_stacks else ""
    plain = generate(model, inputs, n_new=5)
    for place in (0, 6, 10, 11, 14, [[3], [9], [12]], -1):  # 10 is the prompt's end, 14 the last that is read
        for site in ("blocks.0.attn_out", "blocks.1.attn.k", "blocks.1.attn.pattern", "blocks.0.attn.result"):
            heads = [1] if site.endswith(("result", "pattern")) else None
            edit = Edit(side + site, scale(3.0), positions=place, heads=heads)
            with intervene(model, edit):
                got, again = (generate(model, inputs, n_new=5, use_cache=use) for use in (True, False))
            new = torch.cat((inputs[len(inputs) // 2 - 1], got.tokens[:, :-1]), dim=1)
            mask = torch.cat((inputs[-1], got.mask[:, :-1]), dim=1)
            with intervene(model, edit):
                whole = model(new, mask) if make is decoder else model(inputs[0], new, inputs[2], mask)
            first = torch.arange(11).masked_fill(~inputs[-1], -1).amax(1, keepdim=True)
            at = torch.cat((first, torch.arange(11, 15).expand(3, -1)), dim=1)  # batch new
            log_p = whole.log_softmax(-1).gather(1, at.unsqueeze(-1).expand(-1, -1, 31)).gather(-1, got.tokens.unsqueeze(-1))[..., 0]
            assert torch.equal(got.tokens, again.tokens) and (got.log_probabilities - log_p).abs().max() < 1e-4
            assert not torch.equal(got.log_probabilities, plain.log_probabilities)
    assert all(site.window is None for site in model.sites().values())
    assert torch.equal(generate(model, inputs, n_new=5).tokens, plain.tokens)


def test_edits_of_what_is_computed_at_the_end_and_of_the_source() -> None:
    model = two_stacks()
    inputs, plain = example(model, "left"), generate(two_stacks(), example(two_stacks(), "left"), n_new=5)
    with intervene(model, Edit("logits", zero(), positions=12)):
        got = generate(model, inputs, n_new=5)
    assert (got.tokens[:, 2] == 0).all() and torch.equal(got.tokens[:, :2], plain.tokens[:, :2])
    assert got.log_probabilities[:, 2] == pytest.approx(-math.log(31))
    for site in ("encoder.blocks.0.resid_post", "decoder.blocks.0.cross_attn.v"):  # read whole, though as long as no target
        with intervene(model, Edit(site, zero(), positions=12)):
            assert not torch.equal(generate(model, inputs, n_new=5).log_probabilities, plain.log_probabilities)
    with pytest.raises(SiteError, match="has 15 positions, the edit names 15"):
        with intervene(model, Edit("decoder.blocks.0.attn.z", zero(), positions=15)):
            generate(model, inputs, n_new=5)
    assert all(site.window is None for site in model.sites().values())


def test_annalog_copies_molecules_through_cross_attention() -> None:
    """What it writes is the molecule that it read; without what cross-attention adds, it cannot know it."""
    annalog = load_model("annalog")
    got = generate(annalog, [ASPIRIN, CAFFEINE], n_new=50)
    assert got.texts == (ASPIRIN, CAFFEINE)
    assert got.tokens[:, -1].tolist().count(annalog.tokenizer.eos_id) >= 1 and not got.mask.all()
    assert generate(annalog, [ASPIRIN, CAFFEINE], n_new=50, n_beams=3).texts == (ASPIRIN, CAFFEINE)
    assert generate(annalog, annalog.tokenize([CAFFEINE])[0], n_new=50).texts == (CAFFEINE,)  # a source alone
    removers = [annalog.sites()[f"decoder.blocks.{i}.cross_attn_out"].edit(torch.zeros_like) for i in range(3)]
    blind = generate(annalog, [ASPIRIN, CAFFEINE], n_new=50).texts
    for remove in removers:
        remove()
    assert blind[0] == blind[1] and ASPIRIN not in blind[0] and CAFFEINE not in blind[0]
    molecules = data_path("molecules.txt").read_text().split()
    written = generate(annalog, molecules, n_new=60).texts
    assert sum(text == molecule for text, molecule in zip(written, molecules, strict=True)) == 10


def test_smollm2_answers(smollm2: Transformer) -> None:
    texts = ["The capital of France is", "The Eiffel Tower is located in the city of"]
    assert all(text.startswith(" Paris") for text in generate(smollm2, texts, n_new=3).texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_new=0), "n_new must be a whole number of at least 1, got 0"),
        (dict(n_new=2.0), "n_new must be a whole number of at least 1, got 2.0"),
        (dict(n_new=2, n_beams=0), "n_beams must be a whole number of at least 1, got 0"),
        (dict(n_new=2, stop=31), r"token ids from 0 to 30 \(d_vocab=31\), got 31"),
        (dict(n_new=2, stop="</s>"), "stop must be token ids, 'eos' or None, got '</s>'"),
        (dict(n_new=2, sampling=Sampling()), "sampling draws at random, got generator=None"),
        (dict(n_new=2, sampling="greedy"), r"must be Greedy\(\) or Sampling\(…\), got 'greedy'"),
        (dict(n_new=2, sampling=Sampling(), n_beams=2), "draw nothing, got n_beams=2 together with Sampling"),
        (dict(n_new=23), "holds 24 tokens .*, too few for a prompt of 3 and 23 new ones"),
    ],
)
def test_refused_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(decoder(), torch.tensor([[1, 2, 3]]), **options)


def test_refused_inputs_and_models() -> None:
    model, tokens = decoder(), torch.tensor([[1, 2, 3]])
    for inputs, message in (
        ((tokens, tokens > 5), "at least one real token, row 0 has none"),
        ((tokens, tokens > 0, tokens), r"are \(tokens, mask\), got 3 values"),
        (tokens + 30, "from 0 to 30 .*, got 33"), (["a"], "came without a tokenizer"), ("a", "came without a tokenizer"), ([], "tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, inputs, n_new=2)
    with pytest.raises(ValueError, match="a source alone needs a tokenizer that knows the start token, got none"):
        generate(two_stacks(), tokens, n_new=2)
    with pytest.raises(ValueError, match="same number of examples, got 1 and 2"):
        generate(two_stacks(), (tokens, tokens.repeat(2, 1)), n_new=2)
    for changes, message in ((dict(causal=False), r"got an encoder \(causal=False\)"), (dict(head="none"), "without a head")):
        with pytest.raises(ValueError, match=message):
            generate(decoder(**changes), tokens, n_new=2)
    for options, message in (({"temperature": -1.0}, "got -1.0"), ({"top_k": 0}, "top_k .* got 0"), ({"top_p": 1.5}, "top_p .* got 1.5")):
        with pytest.raises(ValueError, match=message):
            Sampling(**options)
    assert generate(model, tokens, n_new=22, sampling=Greedy()).tokens.shape == (1, 22)

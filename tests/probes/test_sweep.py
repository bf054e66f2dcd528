"""Are a sweep's numbers those of every edit on its own?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import Transformer, TransformerConfig, wrap
from model.architectures import architectures
from probes import (
    Edit,
    Metric,
    SiteError,
    ablate_heads,
    accuracy,
    add,
    constant,
    intervene,
    kl_divergence,
    log_probability,
    logit_difference,
    loss,
    loss_at,
    masked_loss,
    mean,
    patch,
    plan,
    positional_mean,
    probability,
    record,
    resample,
    scale,
    sweep,
    total_variation,
    zero,
)
from probes.edits import Change
from probes.metrics import Readout
from tests.conftest import example, hugging_face, place_to_read

FAMILIES = [(name, i) for name, family in architectures().items() for i in range(len(family.random_configs))]

MODELS = {f"{name}" if i == 0 else f"{name}-{i}": wrap(hugging_face(name, i)).requires_grad_(False) for name, i in FAMILIES}
"""Every family: grouped heads, windows, biases, norms before, after and around, parallel blocks, encoders, and two stacks."""


def metrics(model: Transformer) -> dict[str, Metric]:
    """All that the model can be measured by; an encoder's answers are read in the middle."""
    at = place_to_read(model)
    of_text = {"loss": loss(), "at": loss_at(4)}
    if at is not None:
        of_text = {"masked": masked_loss(torch.arange(24).reshape(3, 8) % 5, torch.arange(24).reshape(3, 8) % 3 == 1)}
    return of_text | {
        "accuracy": accuracy([1, 2, 3], positions=at),
        "variation": total_variation(positions=at),
        "difference": logit_difference(3, [4, 5, 6], positions=at),
        "log": log_probability([1, 2, 3], positions=at),
        "probability": probability(3, positions=at),
        "kl": kl_divergence(positions=at),
        "earlier": logit_difference(3, [4, 5, 6], positions=[2, 5, -1]),
    }


def batch(model: Transformer, padding: str) -> tuple:
    if not isinstance(model, Transformer):
        inputs = example(model, "none" if padding == "shared" else padding, pos=8)
        return inputs[:2] if padding in ("none", "shared") else inputs
    tokens = torch.randint(model.config.d_vocab, (3, 8), generator=torch.Generator().manual_seed(2))
    if padding == "shared":
        tokens[:, :5] = tokens[0, :5]
    mask = torch.ones(3, 8, dtype=torch.bool)
    if padding in ("none", "shared"):
        return (tokens,)
    mask[1, (slice(3) if padding == "left" else slice(5, None))] = False
    return tokens, mask


CHANGES = {
    "zero": lambda inputs: zero(),
    "scale": lambda inputs: scale(1.5),
    "mean": lambda inputs: mean(inputs),
    "positional mean": lambda inputs: positional_mean(inputs),
    "resample": lambda inputs: resample(inputs, torch.Generator().manual_seed(0)),
    "patch": lambda inputs: patch(inputs),
    "add": lambda inputs: add(inputs),
    "constant": lambda inputs: constant(inputs),
    "own": lambda inputs: lambda x: x.flip(-1),
}


def change_of(kind: str, model: Transformer, inputs: tuple, name: str) -> Change:
    """The change of one site; those that go by a tensor get one of the value's own size, so that every place has its own."""
    if kind not in ("patch", "add", "constant"):
        return CHANGES[kind](inputs)
    other = tuple(x if x is None or x.dtype == torch.bool else x.flip(0) for x in inputs)
    with torch.no_grad(), record(model, name) as recorded:
        model(*other)
    return CHANGES[kind]({name: recorded[name]} if kind == "patch" else recorded[name][0])


@st.composite
def cases(draw):
    model = MODELS[draw(st.sampled_from(sorted(MODELS)))]
    inputs = batch(model, draw(st.sampled_from(["none", "left", "right", "shared"])))
    names = [name for name in model.sites() if not name.endswith((".scores", ".pattern")) or draw(st.booleans())]

    def edit() -> Edit:
        name = draw(st.sampled_from(names))
        kind = draw(st.sampled_from([k for k in CHANGES if k not in ("own", "add") or not name.endswith(("scores", "pattern"))]))
        axes = model.sites()[name].axes
        config = model.config if isinstance(model, Transformer) else getattr(model.config, name.partition(".")[0], model.config.decoder)
        sizes = {"head": config.n_heads, "kv_head": config.n_kv_heads}
        axis = next((a for a in axes if a in sizes), None)
        heads = [draw(st.integers(0, sizes[axis] - 1))] if axis and draw(st.booleans()) else None
        positions = draw(st.lists(st.integers(0, 7), min_size=1, max_size=3)) if draw(st.booleans()) else None
        return Edit(name, change_of(kind, model, inputs, name), heads=heads, positions=positions)

    if draw(st.integers(0, 3)) == 0:  # a grid, as patching makes it: many edits of one site, each at a place of its own
        name = draw(st.sampled_from([name for name in names if name.endswith(("resid_pre", "attn.z", "mlp_out", "attn.k"))]))
        edits = [Edit(name, scale(0.0), positions=[p]) for p in range(draw(st.integers(0, 6)), 8)]
        return model, inputs, edits, draw(st.sampled_from(sorted(metrics(model)))), draw(st.sampled_from([1, 20_000, 10**9]))
    edits = [
        tuple(edit() for _ in range(draw(st.integers(2, 3)))) if draw(st.booleans()) else edit() for _ in range(draw(st.integers(1, 5)))
    ]
    return model, inputs, edits, draw(st.sampled_from(sorted(metrics(model)))), draw(st.sampled_from([1, 20_000, 10**9]))


@given(cases())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_equals_each_edit_alone(case) -> None:
    model, inputs, edits, name, budget = case
    metric = metrics(model)[name]
    table = sweep(model, inputs, edits, metric, budget_bytes=budget)
    expected_work = plan(model, inputs, edits, metric, budget_bytes=budget)
    assert (table.attrs["block_steps"], table.attrs["token_steps"]) == (expected_work.block_steps, expected_work.token_steps)
    with torch.no_grad():
        readout = metric.on(model, inputs)
        clean = readout.of(model(*inputs))
        for number, edit in enumerate(edits):
            with intervene(model, edit):
                expected = readout.measure(readout.of(model(*inputs)), clean)
            rows = table[table["edit"] == number].sort_values("example")
            size = max(
                1.0, float(expected.nan_to_num().abs().max())
            )  # an edit of a norm's scale by zero is not a number, alone and in a sweep
            assert torch.allclose(torch.tensor(rows["edited"].to_numpy()).float(), expected, atol=2e-5 * size, equal_nan=True), (
                number,
                edit,
            )
    assert (table["effect"].isna() | (table["edited"] - table["clean"] == table["effect"])).all()
    assert not any(site.observed for site in model.sites().values())


class Opaque:
    """A model that cannot be resumed: it offers sites and a call, and nothing else."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.n_heads = model, model.n_heads

    def sites(self):
        return self.model.sites()

    def __call__(self, *inputs):
        return self.model(*inputs)


def test_models_that_cannot_be_resumed_give_the_same() -> None:
    model, inputs = MODELS["llama-1"], batch(MODELS["llama-1"], "left")
    edits = ablate_heads(model, mean(inputs))
    fast, slow = (sweep(m, inputs, edits, loss()) for m in (model, Opaque(model)))
    pd.testing.assert_frame_equal(fast, slow, rtol=1e-5, atol=1e-6)


def test_blocks_below_an_edit_are_not_run_again() -> None:
    model, inputs = MODELS["gpt2"], batch(MODELS["gpt2"], "none")
    runs = [0] * model.n_layers
    handles = [block.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1)) for i, block in enumerate(model.blocks)]
    try:
        sweep(model, inputs, ablate_heads(model, zero()), loss())
    finally:
        for handle in handles:
            handle.remove()
    # block i: the clean pass, the pass that keeps its input, and one stacked run for each edited block up to i
    assert runs == [2 + i + 1 for i in range(model.n_layers)]


def test_rows_are_labelled() -> None:
    model, inputs = MODELS["gpt2"], batch(MODELS["gpt2"], "none")
    edits = [Edit("blocks.1.hook_mlp_out", zero(), positions=[3]), (Edit("embed", zero()), Edit("blocks.2.attn.z", zero(), heads=[1]))]
    table = sweep(model, inputs, edits, loss())
    first, second = table[table["edit"] == 0].iloc[0], table[table["edit"] == 1].iloc[0]
    assert (first["site"], first["layer"], first["position"]) == ("blocks.1.mlp_out", 1, 3) and pd.isna(first["head"])
    assert second["site"] == "embed + blocks.2.attn.z" and pd.isna(second["layer"]) and pd.isna(second["head"])
    assert table["example"].tolist() == [0, 1, 2] * 2


def test_mistakes(glasslm: Transformer) -> None:
    model, inputs = MODELS["gpt2"], batch(MODELS["gpt2"], "none")
    with pytest.raises(SiteError, match="at least one edit, got none"):
        sweep(model, inputs, [], loss())
    with pytest.raises(SiteError, match="no tokenizer to look up ' Mary'"):
        sweep(model, inputs, ablate_heads(model, zero()), logit_difference(" Mary", " John"))
    with pytest.raises(SiteError, match=r"'Nantucket' is \d+ tokens .*must be exactly one"):
        logit_difference("Nantucket", " he").on(glasslm, glasslm.tokenize(["a"]))
    with pytest.raises(SiteError, match="one for each of the 3 examples, got 2"):
        logit_difference([1, 2], 3).on(model, inputs)
    with pytest.raises(SiteError, match=r"there is no layer 9 with a site \*attn.z"):
        ablate_heads(model, zero(), layers=[0, 9])
    empty = torch.tensor([[True, True], [False, False]])
    with pytest.raises(SiteError, match="example 1 has no real token"):
        kl_divergence().on(model, (torch.zeros(2, 2, dtype=torch.long), empty))
    with pytest.raises(SiteError, match="two real tokens in a row, example 1 has none"):
        loss().on(model, (torch.zeros(2, 2, dtype=torch.long), empty))


def test_loss_is_the_mean_over_real_tokens() -> None:
    model, inputs = MODELS["llama-1"], batch(MODELS["llama-1"], "left")
    tokens, mask = inputs
    got = loss()(model, inputs)
    for row in range(3):
        words = tokens[row, mask[row]]
        log_p = model(words[None]).log_softmax(-1)[0, :-1]
        assert torch.allclose(got[row], -log_p[torch.arange(len(words) - 1), words[1:]].mean(), atol=1e-5)


def test_what_all_prompts_begin_with_is_read_once() -> None:
    model, inputs = MODELS["llama-1"], batch(MODELS["llama-1"], "shared")
    edits = [Edit(f"blocks.{i}.attn.z", zero(), heads=[0], positions=[p]) for i in range(model.n_layers) for p in (6, 7)]
    work = plan(model, inputs, edits, metrics(model)["difference"])
    assert work.shared == 5 and plan(model, inputs, [*edits, Edit("embed", zero())], metrics(model)["difference"]).shared == 0
    alone = plan(model, (inputs[0][:1],), edits, logit_difference(3, 4))
    assert work.token_steps == 3 * alone.token_steps - (3 - 1) * 5 * model.n_layers - 3 * 5 * work.n_advanced
    table = sweep(model, inputs, edits, metrics(model)["difference"])
    for number, edit in enumerate(edits):
        with intervene(model, edit):
            expected = metrics(model)["difference"](model, inputs)
        assert torch.allclose(torch.tensor(table[table["edit"] == number]["edited"].to_numpy()).float(), expected, atol=2e-5)


def test_ctrl_c_returns_what_is_done() -> None:
    model, inputs, calls = MODELS["gpt2"], batch(MODELS["gpt2"], "none"), []

    def press(value: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        raise KeyboardInterrupt

    edits = [Edit("blocks.0.mlp_out", zero()), Edit("blocks.2.mlp_out", press), Edit("blocks.1.mlp_out", zero())]
    with pytest.warns(RuntimeWarning, match="the sweep was interrupted: 2 of 3 edits are done"):
        table = sweep(model, inputs, edits, loss())
    assert table["edit"].unique().tolist() == [0, 2] and table.attrs["complete"] is False and calls == [1]
    assert sweep(model, inputs, edits[:1], loss()).attrs == {
        "metric": "loss", "unit": "nats per token", "exact": True, "complete": True, "block_steps": 3 * (2 * model.n_layers),
        "token_steps": 3 * 8 * 2 * model.n_layers,
    }
    assert not any(site.observed for site in model.sites().values())


def test_the_metrics_are_what_they_say() -> None:
    model, inputs = MODELS["gpt2"], batch(MODELS["gpt2"], "none")
    logits = model(*inputs)[:, -1]
    assert torch.equal(accuracy(logits.argmax(-1).tolist())(model, inputs), torch.ones(3))
    assert torch.equal(accuracy(logits.argmin(-1).tolist())(model, inputs), torch.zeros(3))
    assert total_variation()(model, inputs).abs().max() == 0
    with intervene(model, edit := Edit("blocks.1.attn_out", zero())):
        other = model(*inputs)[:, -1]
    row = sweep(model, inputs, [edit], total_variation())
    expected = (other.softmax(-1) - logits.softmax(-1)).clamp(min=0).sum(-1)  # the other formula for the same distance
    assert torch.allclose(torch.tensor(row["edited"].to_numpy()).float(), expected, atol=1e-6)
    each = torch.stack([loss_at(i)(model, inputs) for i in range(1, 8)], dim=1)
    assert torch.allclose(each.mean(1), loss()(model, inputs), atol=1e-6)
    for place, message in ((0, "a loss is there at places 1 to 7, got 0"), (8, "got 8")):
        with pytest.raises(SiteError, match=message):
            loss_at(place).on(model, inputs)
    with pytest.raises(SiteError, match="cannot be resumed between blocks"):
        plan(Opaque(model), inputs, [edit], loss())


@pytest.mark.parametrize(("n_examples", "copies"), [(1, [8]), (4, [4, 4]), (8, [3, 3, 2]), (40, [1] * 8)])
def test_edits_at_different_places_run_together_while_that_wastes_few_tokens(n_examples: int, copies: list[int]) -> None:
    """The k-th of a run that begins at place p computes k tokens of each example that it does not need: 32 in all are allowed."""
    model = MODELS["llama"]
    tokens = torch.ones(n_examples, 8, dtype=torch.long)
    found = plan(model, (tokens,), [Edit("blocks.0.resid_pre", zero(), positions=[p]) for p in range(8)], logit_difference(3, 4))
    assert [run.copies for run in found.runs] == copies


ENCODER = {"n_layers": 2, "d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 16, "d_vocab": 10, "n_ctx": 8, "causal": False}


def test_a_metric_that_the_model_has_no_output_for_is_refused() -> None:
    tokens = (torch.arange(6).reshape(2, 3),)
    edit = [Edit("blocks.0.mlp_out", zero())]
    headless, both = (Transformer(TransformerConfig(**ENCODER, head=head)) for head in ("none", "lm"))
    for metric in (loss(), loss_at(1), logit_difference(3, 4), kl_divergence(), accuracy(1)):
        with pytest.raises(SiteError, match="reads logits, but this model has no head; representation_shift"):
            sweep(headless, tokens, edit, metric)
    for metric in (loss(), loss_at(1)):
        with pytest.raises(SiteError, match="reads both ways and predicts no next token, so it has no loss.*masked_loss"):
            sweep(both, tokens, edit, metric)
    for metric in (logit_difference(3, 4), log_probability(3), probability(3), accuracy(3), kl_divergence(), total_variation()):
        with pytest.raises(SiteError, match="name the place that .* reads in positions"):
            sweep(both, tokens, edit, metric)
    assert sweep(both, tokens, edit, logit_difference(3, 4, positions=1))["effect"].abs().max() > 0


@pytest.mark.parametrize(("positions", "message"), [
    (9, r"positions must be in a sequence of 3 tokens, got \[9\]"), ([0, 1, 2], "one for each of the 2 examples, got 3"),
    (0.5, "positions must be whole numbers, got 0.5"), (-4, r"in a sequence of 3 tokens, got \[-4\]"),
])
def test_places_that_are_not_there(positions: object, message: str) -> None:
    with pytest.raises(SiteError, match=message):
        logit_difference(3, 4, positions=positions)(MODELS["gpt2"], (torch.arange(6).reshape(2, 3),))


def test_answers_and_numbers_of_other_libraries_are_understood() -> None:
    model, tokens = MODELS["gpt2"], (torch.arange(6).reshape(2, 3),)
    table = sweep(model, tokens, ablate_heads(model, zero(), layers=[0]), logit_difference(np.int64(3), torch.tensor(4)))
    again = [Edit(row.site, zero(), heads=[row.head]) for row in table[table["example"] == 0].itertuples()]
    answers = logit_difference(np.array([3, 3]), torch.tensor([4, 4]))
    assert sweep(model, tokens, again, answers)["effect"].tolist() == table["effect"].tolist()
    assert Edit("embed", zero(), positions=np.array([1, 2])).positions == (1, 2)


@pytest.mark.parametrize("answer", [-1, 99_999, True, 1.5])
def test_an_answer_that_is_no_token_is_refused(answer: object) -> None:
    with pytest.raises(SiteError, match="a token id is between 0 and|an answer is a token or its id"):
        logit_difference(answer, 3)(MODELS["gpt2"], (torch.arange(6).reshape(2, 3),))


@pytest.mark.parametrize(("value", "message"), [
    (lambda logits, clean: logits.sum(), r"shape \(2,\), but own gave shape \(\)"),
    (lambda logits, clean: logits[:1, 0, 0], r"own gave shape \(1,\)"),
    (lambda logits, clean: 1.0, "own gave float"),
])
def test_a_metric_of_your_own_gives_a_number_per_example(value: object, message: str) -> None:
    with pytest.raises(SiteError, match=message):
        sweep(MODELS["gpt2"], (torch.arange(6).reshape(2, 3),), [Edit("embed", zero())], Metric("own", "1", lambda model, inputs: Readout(None, value)))


@pytest.mark.parametrize(("change", "message"), [
    ({"batch": torch.arange(6).reshape(2, 3)}, r"a tuple, such as \(tokens,\) or \(tokens, mask\), got Tensor"),
    ({"metric": loss}, r"a metric is one such as loss\(\), or a Metric of your own, got loss"),
    ({"edits": Edit("embed", zero())}, "edits are a list, each an Edit or a tuple of them, got Edit"),
    ({"edits": 3}, "edits are a list, .* got int"),
])
def test_what_was_asked_for_in_another_form_is_named(change: dict, message: str) -> None:
    given = {"batch": (torch.arange(6).reshape(2, 3),), "edits": [Edit("embed", zero())], "metric": loss()} | change
    with pytest.raises(SiteError, match=message):
        sweep(MODELS["gpt2"], **given)

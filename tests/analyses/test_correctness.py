"""Do the gates hold on sound models of every kind, and does each catch the fault that it is there for?"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import model.mixing
import model.stack
from analyses._corpus import Corpus, load_corpus
from analyses._correctness_examples import Examples, chosen
from analyses._correctness_gates import BOUNDS, OWN, bound_of, gates
from analyses.correctness import BROKEN, KEPT, UNCHECKED, Correctness
from model import (
    EncoderDecoder,
    EncoderDecoderConfig,
    Transformer,
    TransformerConfig,
    fold_norms,
    load_model,
    wrap,
)
from model.masks import attention_mask
from probes import Edit, intervene, scale
from reports import Result, Table, draw, page
from tests.conftest import hugging_face

NOTHING = Corpus(text="", text_source="none", prompts=(), prompts_source="none", tokens=torch.zeros(0, dtype=torch.long))
SHAPE = {"n_layers": 3, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 24, "d_vocab": 30, "n_ctx": 32}
STACKS = {
    "grouped queries": {"positions": "rotary"},
    "parallel": {"parallel": True, "positions": "rotary"},
    "sandwich": {"norm_place": "sandwich", "norm": "rms"},
    "post": {"norm_place": "post", "embed_norm": True, "final_norm": False},
    "no residual": {"residual": False},
    "attention only": {"d_mlp": 0},
    "alibi": {"positions": "alibi"},
    "capped": {"score_cap": 5.0},
    "encoder": {"causal": False, "head": "none", "norm_place": "post", "embed_norm": True, "final_norm": False},
}
EVERY = ["batch against single", "left against right padding", "row sums", "additivity", "causality", "no-op edit"]


def stack(**choices) -> Transformer:
    """Random weights large enough that every path matters."""
    made = Transformer(TransformerConfig(**{**SHAPE, **choices}), generator=torch.Generator().manual_seed(0))
    return _loud(made)


def two_stacks() -> EncoderDecoder:
    config = EncoderDecoderConfig(encoder=TransformerConfig(**SHAPE, causal=False, head="none"), decoder=TransformerConfig(**SHAPE))
    return _loud(EncoderDecoder(config, generator=torch.Generator().manual_seed(0)))


def _loud(made):
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return made.requires_grad_(False)


def asked(made, **fields) -> dict[str, tuple[str, float, str]]:
    """Every gate: its status, error and place."""
    return statuses(Correctness(**fields).run(made, NOTHING))


def statuses(result: Result) -> dict[str, tuple[str, float, str]]:
    return {row.gate: (row.status, row.measured, row.where) for row in result.tables["gates"].frame.itertuples()}


def broken(found: dict[str, tuple[str, float, str]]) -> list[str]:
    return [gate for gate, (status, _, _) in found.items() if status == BROKEN]


@pytest.mark.parametrize("choices", STACKS.values(), ids=list(STACKS))
def test_every_gate_holds_on_a_sound_stack(choices):
    found = asked(stack(**choices))
    open_ = {OWN, "causality"} if choices.get("causal") is False else {OWN}
    assert {gate for gate, (status, _, _) in found.items() if status == UNCHECKED} == open_
    assert not broken(found) and list(found) == [OWN, *EVERY]
    assert all(measured < 1e-5 for gate, (status, measured, _) in found.items() if status == KEPT)


def test_every_gate_holds_on_two_stacks():
    found = asked(two_stacks())
    assert [status for status, _, _ in found.values()] == [UNCHECKED, *[KEPT] * 6]


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "gpt2"])
@pytest.mark.parametrize("headless", [False, True])
def test_own_implementation_is_asked_and_a_changed_weight_is_found(name, headless, tmp_path: Path):
    theirs = hugging_face(name, 0, headless=headless)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    status, measured, _ = asked(ours, length=9)[OWN]
    assert status == KEPT and 0 <= measured < 1e-5
    next(parameter for key, parameter in ours.named_parameters() if key.endswith("W_O.weight")).data.mul_(1.01)
    found = asked(ours, length=9)
    assert broken(found) == [OWN] and found[OWN][1] > 1e-4


def test_folded_norms_are_still_held_against_the_checkpoint(tmp_path: Path):
    hugging_face("llama", 0).save_pretrained(tmp_path)
    assert asked(fold_norms(load_model(tmp_path)), length=9)[OWN][0] == KEPT


def compared(made, gate: str = OWN, **fields) -> str:
    frame = Correctness(**fields).run(made, NOTHING).tables["gates"].frame
    return frame.loc[frame["gate"] == gate, "compared"].item()


def test_what_cannot_be_compared_says_why(tmp_path: Path):
    theirs = hugging_face("llama", 0)
    theirs.save_pretrained(tmp_path / "own")
    assert compared(stack()) == "the model was not loaded from a checkpoint"
    assert compared(wrap(theirs)) == "the object that was wrapped is not kept; compare with its own output"
    assert compared(load_model("induction")) == "the checkpoint has no implementation in transformers"
    assert "billion parameters would be loaded a second time, allowed are 0.0" in compared(load_model(tmp_path / "own"), largest=0)
    merged = load_model(tmp_path / "own")
    merged.source = merged.source.then("merged an adapter")
    assert compared(merged) == "the weights are no longer the checkpoint's: merged an adapter"
    (tmp_path / "own" / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    merged.source = load_model("induction").source.__class__(name="x", kind="folder", files=(tmp_path / "own" / "model.safetensors",))
    assert compared(merged).startswith("transformers ") and "could not read it: " in compared(merged)
    assert compared(stack(causal=False), "causality") == "an encoder reads in both directions"


def test_a_missing_causal_mask_is_caught(monkeypatch):
    monkeypatch.setattr(model.stack, "attention_mask", lambda *args, **options: attention_mask(*args, **{**options, "causal": False}))
    found = asked(stack())
    assert broken(found) == ["causality"] and found["causality"][1] > 0.01
    assert "causality" in broken(asked(two_stacks()))


def test_attention_to_padding_is_caught(monkeypatch):
    def seen(positions, keys, mask, **options):
        return attention_mask(positions, keys, None, **options)

    monkeypatch.setattr(model.stack, "attention_mask", seen)
    assert {"batch against single", "left against right padding"} <= set(broken(asked(stack(causal=False, positions="learned"))))


def test_positions_counted_from_the_edge_of_the_batch_are_caught(monkeypatch):
    monkeypatch.setattr(model.stack, "count_positions", lambda tokens, mask: torch.arange(tokens.shape[1]).expand(tokens.shape))
    assert broken(asked(stack(positions="learned"))) == ["left against right padding"]


def test_an_example_that_sees_its_neighbours_is_caught():
    made = stack()
    made.blocks[0].register_forward_hook(lambda block, inputs, out: out - 0.1 * out.mean(0, keepdim=True))
    assert "batch against single" in broken(asked(made))


@pytest.mark.parametrize("make", [stack, two_stacks])
def test_rows_that_are_no_distribution_are_caught_with_their_place(make):
    made = make()
    site = next(name for name in reversed(made.sites()) if name.endswith("blocks.1.attn.pattern"))
    with intervene(made, Edit(site, scale(1.01))):
        found = asked(made)
    status, measured, where = found["row sums"]
    assert status == BROKEN and measured == pytest.approx(0.01, abs=1e-5) and where == site.removesuffix(".pattern")


@pytest.mark.parametrize("choices", [{}, {"parallel": True}, {"norm_place": "sandwich"}])
def test_what_is_added_in_secret_is_caught(choices):
    made = stack(**choices)
    made.blocks[1].register_forward_hook(lambda block, inputs, out: out + 0.1)
    assert broken(asked(made)) == ["additivity"]


def test_a_norm_that_another_one_replaced_is_caught_in_a_post_norm_stack():
    made = stack(**STACKS["post"])
    made.blocks[1].attn.register_forward_hook(lambda attn, inputs, out: out)  # sound: nothing changes
    assert broken(asked(made)) == []
    with intervene(made, Edit("blocks.1.resid_mid", scale(1.1))):
        found = asked(made)
    assert "additivity" in broken(found) and found["additivity"][2] == "block 1"


def test_an_explicit_path_that_differs_from_the_fused_one_is_caught(monkeypatch):
    explicit = model.mixing.Mixing._explicit
    monkeypatch.setattr(model.mixing.Mixing, "_explicit", lambda self, queries: 1.01 * explicit(self, queries))
    found = asked(stack())
    assert broken(found) == ["no-op edit"] and found["no-op edit"][2] in ("blocks.*.attn.scores", "blocks.*.attn.pattern")


def test_logits_that_are_no_numbers_break_the_gates():
    made = stack()
    made.blocks[2].mlp.W_out.weight.data[0, 0] = math.nan
    result = Correctness().run(made, NOTHING)
    assert result.verdict.status == "fail" and "is off by inf, rounding explains 1e-05." in result.verdict.claim
    assert statuses(result)["no-op edit"][:2] == (BROKEN, math.inf)
    assert page([result], title="t") and draw(result.figures[0])


def test_the_verdict_says_how_many_hold_and_what_was_not_checked():
    result = Correctness().run(stack(), NOTHING)
    assert result.verdict.status == "pass"
    assert (
        result.verdict.claim
        == "6 of 7 gates were checked and hold: no error is larger than rounding explains; not checked: own implementation."
    )
    assert len(result.verdict.evidence) == 6 and all(e.measured <= e.threshold for e in result.verdict.evidence)
    assert "the model was not loaded from a checkpoint" in result.verdict.why


def test_nothing_checked_is_inconclusive():
    whole = Correctness().run(stack(), NOTHING).tables["gates"]
    frame = whole.frame.assign(status=UNCHECKED, measured=math.nan)
    tables = {"gates": Table(frame=frame, columns=whole.columns, caption="c")}
    assert Correctness().judge(tables).status == "inconclusive" and Correctness().draw(tables) == ()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_bounds_follow_the_number_format(dtype):
    kind = getattr(torch, dtype)
    found = asked(stack().to(kind))
    assert not broken(found)
    assert bound_of("causality", kind) == BOUNDS[dtype] and bound_of("row sums", torch.bfloat16) == pytest.approx(4 * 2**-7)
    if dtype == "float64":
        assert found["batch against single"][1] < 1e-12
    else:  # and the bound of fp32 would not do
        assert max(measured for status, measured, _ in found.values() if status == KEPT) > BOUNDS["float32"]


def test_examples_have_different_lengths_and_are_padded_on_both_sides():
    made = two_stacks()
    examples = chosen(made, NOTHING, 3, 12, seed=0)
    assert examples.lengths == ["12 → 12", "8 → 8", "6 → 6"] and examples.kind == "random tokens"
    source, target, source_mask, target_mask = examples.batch("left")
    assert source_mask.sum(1).tolist() == [12, 8, 6] and bool(target_mask[:, -1].all()) and not bool(target_mask[1:, 0].any())
    assert source[2][source_mask[2]].tolist() == examples.single[2][0][0].tolist()
    assert isinstance(examples.first(1, 5), Examples) and examples.first(1, 5).lengths == ["5 → 5"]


def test_text_is_read_where_there_is_some(glasslm):
    result = Correctness(length=12).run(glasslm, load_corpus(glasslm))
    assert result.notes["examples"] == "3 of text, of 12, 8, 6 tokens" and result.verdict.status == "pass"


def test_one_example_or_token_leaves_gates_unchecked():
    found = asked(stack(), n_examples=1)
    assert {gate for gate, (status, _, _) in found.items() if status == UNCHECKED} == {
        OWN,
        "batch against single",
        "left against right padding",
    }
    tiny = stack(n_ctx=1, positions="learned")
    assert asked(tiny)["causality"][0] == UNCHECKED


def test_every_gate_says_why_it_matters():
    assert [gate.name for gate in gates("")] == [OWN, *EVERY]
    assert all(gate.why.endswith(".") for gate in gates(""))


@pytest.mark.parametrize(("field", "value", "least"), [("n_examples", 0, 1), ("length", 1, 2), ("largest", -1, 0)])
def test_impossible_parameters_are_refused(field, value, least):
    with pytest.raises(ValueError, match=f"{field} must be at least {least}, got {value}"):
        Correctness(**{field: value})

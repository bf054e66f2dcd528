"""Is nothing silent, and is nothing shared?"""

from __future__ import annotations

import pytest
import torch

from model import Transformer, TransformerConfig
from probes import Edit, SiteError, UnknownSiteError, add, intervene, mean, patch, record, record_gradients, resample, scale, zero
from tests.conftest import relative


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = TransformerConfig(
        n_layers=3,
        d_model=24,
        n_heads=4,
        n_kv_heads=2,
        d_head=6,
        d_mlp=32,
        d_vocab=50,
        n_ctx=20,
        positions="rotary",
        norm="rms",
        activation="silu",
        gated=True,
    )
    built = Transformer(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(6.0) if parameter.dim() > 1 else None
    return built


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(5))


def clean(model: Transformer) -> bool:
    return not any(site.observed for site in model.sites().values())


def test_names(model: Transformer, tokens: torch.Tensor) -> None:
    with pytest.raises(UnknownSiteError, match="no site matches 'blocks.0.attn.patern'; did you mean blocks.0.attn.pattern"):
        with record(model, ["blocks.0.attn.z", "blocks.0.attn.patern"]):
            pass
    with pytest.raises(UnknownSiteError, match=r"no site matches 'blocks.7.\*'"):
        with intervene(model, Edit("blocks.1.attn.z", zero()), Edit("blocks.7.*", zero())):
            pass
    assert clean(model)
    with record(model, "blocks.*.hook_resid_mid") as a:
        model(tokens)
    assert list(a) == [f"blocks.{i}.resid_mid" for i in range(3)]
    with pytest.raises(KeyError, match="did you mean blocks.0.resid_mid"):
        a["blocks.0.resid_md"]


def test_everything_leaves_after_an_exception(model: Transformer, tokens: torch.Tensor) -> None:
    with pytest.raises(ZeroDivisionError):  # the body's exception wins over "did not fire"
        with record(model, "*"), intervene(model, Edit("blocks.0.attn.z", zero())):
            raise ZeroDivisionError
    assert clean(model)
    with pytest.raises(ZeroDivisionError):
        with intervene(model, Edit("blocks.0.attn.z", lambda z: 1 / 0)):
            model(tokens)
    assert clean(model)


def test_silence_is_an_error(model: Transformer, tokens: torch.Tensor) -> None:
    with pytest.raises(SiteError, match="embed did not fire"):
        with record(model, "embed"):
            pass
    with pytest.raises(SiteError, match="blocks.0.attn.z did not fire"):
        with intervene(model, Edit("blocks.0.attn.z", zero())):
            pass
    with pytest.raises(SiteError, match="embed fired a second time: one record holds one forward pass, or one text"):
        with record(model, "embed"):
            model(tokens)
            model(tokens)
    with pytest.raises(SiteError, match="no gradient reached embed"):
        with record_gradients(model, "embed"):
            model(tokens)
    with pytest.raises(SiteError, match="gradients .* are switched off"):
        with torch.no_grad(), record_gradients(model, "embed"):
            model(tokens)
    with pytest.raises(SiteError, match="at least one Edit"):
        with intervene(model):
            pass


@torch.no_grad()
def test_recorded_values_are_nobodys(model: Transformer, tokens: torch.Tensor) -> None:
    before = model(tokens)
    with record(model, "*") as a:
        logits = model(tokens)
    assert len({value.untyped_storage().data_ptr() for value in a.values()} | {logits.untyped_storage().data_ptr()}) == len(a) + 1
    expected = a["blocks.1.resid_pre"].clone()
    for name in a:
        if name != "blocks.1.resid_pre":
            a[name].zero_()
    assert torch.equal(a["blocks.1.resid_pre"], expected) and torch.equal(model(tokens), before)
    with record(model, "*") as detached, torch.enable_grad():
        assert model(tokens).requires_grad
    assert not any(value.requires_grad for value in detached.values())


@torch.no_grad()
def test_watching_changes_nothing(model: Transformer, tokens: torch.Tensor) -> None:
    with record(model, "*"):
        watched = model(tokens)
    assert relative(watched, model(tokens)) < 1e-5


@torch.no_grad()
def test_recording_sees_what_the_model_goes_on_with(model: Transformer, tokens: torch.Tensor) -> None:
    edit = Edit("blocks.1.attn.z", zero(), heads=[2])
    with record(model, "blocks.1.attn.z") as outer, intervene(model, edit), record(model, "blocks.1.attn.z") as inner:
        model(tokens)
    assert (outer["blocks.1.attn.z"][:, :, 2] == 0).all() and torch.equal(outer["blocks.1.attn.z"], inner["blocks.1.attn.z"])
    with intervene(model, Edit("blocks.0.resid_post", add(torch.ones(24)))), intervene(model, Edit("blocks.0.resid_post", scale(2.0))):
        with record(model, "blocks.0.resid_post") as nested:
            model(tokens)
    with record(model, "blocks.0.resid_post") as plain:
        model(tokens)
    assert torch.allclose(nested["blocks.0.resid_post"], (plain["blocks.0.resid_post"] + 1) * 2)


def test_gradients(model: Transformer, tokens: torch.Tensor) -> None:
    """The gradient at a site predicts the effect of a small edit there (central difference, fp64)."""
    twin = Transformer(model.config).double()
    twin.load_state_dict(model.state_dict())
    for name in ("embed", "blocks.1.attn.pattern", "blocks.1.attn.rot_k", "blocks.2.ln1.scale", "blocks.0.attn.result"):
        with record_gradients(twin, name) as gradients:
            twin(tokens)[:, -1, 7].sum().backward()
        direction = torch.randn(gradients[name].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with record(twin, name, gradients=True) as a:
            value = twin(tokens)[:, -1, 7].sum()
        assert torch.allclose(torch.autograd.grad(value, a[name])[0], gradients[name])
        ends = []
        for step in (1e-4, -1e-4):
            with torch.no_grad(), intervene(twin, Edit(name, lambda x, step=step: x + step * direction)):
                ends.append(twin(tokens)[:, -1, 7].sum())
        measured = (ends[0] - ends[1]) / 2e-4
        assert torch.allclose(measured, (direction * gradients[name]).sum(), rtol=1e-5), name
    with record_gradients(twin, "embed") as twice:
        twin(tokens)[:, -1, 7].sum().backward()
        once = twice["embed"].clone()
        twin(tokens)[:, -1, 7].sum().backward()
    assert torch.allclose(twice["embed"], 2 * once)


@torch.no_grad()
def test_heads_and_positions(model: Transformer, tokens: torch.Tensor) -> None:
    def changed(edit: Edit) -> torch.Tensor:
        with record(model, edit.site) as before:
            model(tokens)
        with intervene(model, edit), record(model, edit.site) as after:
            model(tokens)
        return before[edit.site] != after[edit.site]

    bump = lambda x: x + 1.0  # noqa: E731
    z = "blocks.1.attn.z"
    assert changed(Edit(z, bump)).all()
    for heads, positions, expected in (
        ([2], None, lambda h, p, b: h == 2),
        ([0, -1], [4], lambda h, p, b: (h in (0, 3)) and p == 4),
        (None, -1, lambda h, p, b: p == 8),
        (None, [[0], [], [1, 2]], lambda h, p, b: (b, p) in ((0, 0), (2, 1), (2, 2))),
    ):
        got = changed(Edit(z, bump, heads=heads, positions=positions)).any(-1)
        for b in range(3):
            for p in range(9):
                for h in range(4):
                    assert bool(got[b, p, h]) == expected(h, p, b)
    got = changed(Edit("blocks.1.attn.pattern", lambda x: x * 0 + 0.5, heads=1, positions=[3]))
    assert got[:, 1, 3].any() and not got[:, [0, 2, 3]].any() and not got[:, 1, [0, 1, 2, 4, 5, 6, 7, 8]].any()
    got = changed(Edit("blocks.1.attn.k", bump, heads=[1]))
    assert got[:, :, 1].all() and not got[:, :, 0].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit("blocks.0.attn.z", zero(), heads=[4]), "has 4 heads, the edit names 4"),
        (lambda: Edit("blocks.0.attn.k", zero(), heads=[2]), "has 2 heads, the edit names 2"),
        (lambda: Edit("blocks.0.attn.z", zero(), positions=[9]), "has 9 positions, the edit names 9"),
        (lambda: Edit("blocks.0.resid_post", zero(), heads=[0]), "has no head axis .*but the edit names heads"),
        (lambda: Edit("blocks.0.attn.z", zero(), positions=[[0], [1]]), "one list for each of the 3 examples, got 2"),
        (lambda: Edit("blocks.0.attn.z", zero(), heads=[]), "heads must name at least one of them, got an empty list"),
        (lambda: Edit("blocks.0.attn.z", zero(), positions=[[], [], []]), "at least one position, got an empty list for every example"),
        (lambda: Edit("blocks.0.attn.z", zero(), heads=["1"]), "heads must be whole numbers, got"),
        (lambda: Edit("blocks.0.attn.z", 0.0), "a function of the value, got float"),
        (lambda: Edit("blocks.0.attn.z", lambda z: z[:, :4]), r"must keep the shape \(3, 9, 4, 6\), got \(3, 4, 4, 6\)"),
        (lambda: Edit("blocks.0.attn.z", lambda z: None), "must return a tensor, got NoneType"),
        (lambda: "blocks.0.attn.z", "expected an Edit or a tuple of them, got str"),
        (lambda: Edit("blocks.0.resid_post", add(torch.ones(2, 3, 9, 24))), r"add\(vector\) needs a tensor that can be broadcast .* \(2, 3, 9, 24\), the value \(3, 9, 24\)"),
        (lambda: Edit("blocks.0.attn.z", mean("text")), "a reference is tokens, .* got str"),
        (lambda: Edit("blocks.0.attn.z", patch(torch.zeros(3))), "patch takes recorded activations, got Tensor"),
    ],
)
def test_wrong_edits(model: Transformer, tokens: torch.Tensor, make, message: str) -> None:
    with pytest.raises(SiteError, match=message):
        with intervene(model, make()):
            model(tokens)
    assert clean(model)


@torch.no_grad()
def test_changes(model: Transformer, tokens: torch.Tensor) -> None:
    site = "blocks.1.attn.z"
    others = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(6))
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, 5:] = False

    def recorded(inputs: tuple) -> torch.Tensor:
        with record(model, site) as a:
            model(*inputs)
        return a[site]

    def after(change) -> torch.Tensor:
        with intervene(model, Edit(site, change)), record(model, site) as a:
            model(tokens)
        return a[site]

    here, there = recorded((tokens,)), recorded((others, mask))
    assert (after(zero()) == 0).all()
    assert torch.allclose(after(scale(-2.0)), -2 * here)
    average = there[mask].mean(0)
    for reference in (mean((others, mask)), mean({site: there}, mask=mask)):
        assert torch.allclose(after(reference), average.expand_as(here), atol=1e-6)
    assert torch.allclose(after(mean(others)), recorded((others,)).mean((0, 1)).expand_as(here), atol=1e-6)
    with record(model, "*") as donor:
        model(others)
    assert torch.equal(after(patch(donor)), donor[site])
    drawn = after(resample(others, torch.Generator().manual_seed(3)))
    partners = [[torch.allclose(drawn[b], donor[site][r], atol=1e-5) for r in range(3)].index(True) for b in range(3)]
    assert sorted(partners) == [0, 1, 2] and all(b != r for b, r in enumerate(partners))  # nobody meets itself
    change = resample(others, torch.Generator().manual_seed(3))
    assert torch.equal(after(change), drawn) and torch.equal(after(change), drawn)
    with pytest.raises(SiteError, match="resample needs a reference of the same length"):
        after(resample(others[:, :5], torch.Generator()))
    with pytest.raises(SiteError, match="patch needs a recording of the same shape"):
        with record(model, site) as short:
            model(tokens[:, :4])
        after(patch(short))


@torch.no_grad()
def test_own_functions_may_work_in_place(model: Transformer, tokens: torch.Tensor) -> None:
    with record(model, ["blocks.0.resid_post", "blocks.1.resid_pre"]) as before:
        model(tokens)
    with (
        intervene(model, Edit("blocks.1.resid_pre", lambda x: x.zero_(), positions=[2])),
        record(model, ["blocks.0.resid_post", "blocks.1.resid_pre"]) as after,
    ):
        model(tokens)
    assert torch.equal(before["blocks.0.resid_post"], after["blocks.0.resid_post"])
    assert (after["blocks.1.resid_pre"][:, 2] == 0).all() and torch.equal(
        after["blocks.1.resid_pre"][:, 3], before["blocks.1.resid_pre"][:, 3]
    )


@torch.no_grad()
def test_edit_of_scores_is_masked_again(model: Transformer, tokens: torch.Tensor) -> None:
    with (
        intervene(model, Edit("blocks.0.attn.scores", lambda s: s.masked_fill(s.isinf(), 50.0))),
        record(model, "blocks.0.attn.pattern") as a,
    ):
        assert model(tokens).isfinite().all()
    assert (a["blocks.0.attn.pattern"].triu(1) == 0).all()


def test_autocast(model: Transformer, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        exact = model(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16), record(model, "*") as a, intervene(model, Edit("blocks.2.attn.z", scale(1.0))):
            rough = model(tokens)
    assert len(a) == len(model.sites())
    assert relative(rough.float(), exact) < 0.1


@torch.no_grad()
def test_tokens_of_both_kinds_of_edit_sets(model: Transformer, tokens: torch.Tensor) -> None:
    pair = (Edit("blocks.0.attn.z", zero(), heads=[0]), Edit("blocks.2.mlp_out", scale(0.5)))
    with intervene(model, pair):
        as_tuple = model(tokens)
    with intervene(model, *pair):
        assert torch.equal(model(tokens), as_tuple)

"""Do attributions say what the mathematics says? Models whose answer is known, identities, and what must be exactly zero."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from model import Site, Transformer, TransformerConfig
from probes import Metric, SiteError, logit_difference, loss
from probes.attribution import gradient_x_input, integrated_gradients, occlusion, site_function

SHAPES = {
    "gpt2": dict(n_layers=2, d_model=16, n_heads=4, d_head=4, d_mlp=32, d_vocab=30, n_ctx=12),
    "llama": dict(
        n_layers=2,
        d_model=16,
        n_heads=4,
        n_kv_heads=2,
        d_head=4,
        d_mlp=24,
        d_vocab=30,
        n_ctx=12,
        positions="rotary",
        norm="rms",
        activation="silu",
        gated=True,
        q_bias=False,
        k_bias=False,
        v_bias=False,
        attn_out_bias=False,
        mlp_bias=False,
    ),
}


class Known(nn.Module):
    """Logits of every position: `link` of the weighted sum of all embeddings, unembedded. No biases."""

    def __init__(self, link) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in (("E", (20, 6)), ("pos", (5, 1)), ("U", (6, 20)))
        }
        self.embed, self.logits, self.link = Site("embed"), Site("logits"), link

    def sites(self) -> dict[str, Site]:
        return {"embed": self.embed, "logits": self.logits}

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(self.weights["E"][tokens])
        summed = self.link((x * self.weights["pos"]).sum(1, keepdim=True) @ self.weights["U"])
        return self.logits(summed.expand(-1, tokens.shape[1], -1))


TOKENS = torch.tensor([[1, 2, 3, 4, 5], [7, 7, 8, 9, 0]])


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> Transformer:
    made = Transformer(TransformerConfig(**SHAPES[request.param]), generator=torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.4 if weight.dim() > 1 else 0.2) + (weight.dim() == 1))
    return made


def padded(seed: int = 0) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(30, (3, 8), generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([[True] * n + [False] * (8 - n) for n in (8, 5, 6)])
    return tokens, mask


def test_methods_agree_on_a_linear_model() -> None:  # identity I5
    f = site_function(Known(lambda y: y), (TOKENS,), logit_difference(3, 4))
    base = torch.randn(f.value.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ig = integrated_gradients(f, base, n_steps=1, max_steps=1)
    expected = ((f.value - base) * f.model.weights["pos"]) @ (f.model.weights["U"][:, 3] - f.model.weights["U"][:, 4])
    for found in (ig.attribution, gradient_x_input(f, base), occlusion(f, base)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert ig.n_steps.tolist() == [1, 1]


def test_a_planted_square() -> None:
    """f = s², s = Σ s_i: from zero, IG_i = s_i·s; gradient × input is twice that; occlusion is s² − (s − s_i)²."""
    only_first = Metric("first", "1", lambda model, inputs: logit_difference(3, 4).on(model, inputs))
    f = site_function(Known(lambda y: (y - y.roll(-1, -1)) ** 2 * torch.eye(20, dtype=torch.float64)[3]), (TOKENS,), only_first)
    weights = f.model.weights
    part = (f.value * weights["pos"]) @ (weights["U"][:, 3] - weights["U"][:, 4])  # batch pos
    total = part.sum(1, keepdim=True)
    zero = torch.zeros_like(f.value)
    torch.testing.assert_close(integrated_gradients(f, zero).attribution, part * total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient_x_input(f, zero), 2 * part * total)
    torch.testing.assert_close(occlusion(f, zero), total**2 - (total - part) ** 2)


def test_integrated_gradients_is_the_integral(model: Transformer) -> None:  # identity I3, against a loop with the midpoint rule
    f = site_function(model, padded(), logit_difference(3, 4))
    base = torch.zeros_like(f.value) + 0.3
    ig = integrated_gradients(f, base, max_steps=320, tolerance=1e-4)
    assert float(ig.gap.max()) <= 1e-4
    naive, n = torch.zeros_like(f.value), 200
    for k in range(n):
        values = (base + (k + 0.5) / n * (f.value - base)).requires_grad_()
        naive += torch.autograd.grad(f(values).sum(), values)[0] / n
    torch.testing.assert_close(ig.attribution, ((f.value - base) * naive).sum(-1), rtol=1e-2, atol=1e-3)


def test_occlusion_is_a_forward_pass_without_the_token(model: Transformer) -> None:
    tokens, mask = padded()
    f = site_function(model, (tokens, mask), logit_difference([3, 4, 5], [6, 7, 8]))
    found, base = occlusion(f, torch.zeros_like(f.value), tokens_at_once=50), f.value.clone()
    base[:, 2] = 0
    torch.testing.assert_close(found[:, 2], f(f.value).detach() - f(base).detach(), rtol=1e-9, atol=1e-9)


def test_padding_gets_exactly_nothing_and_a_batch_is_its_examples(model: Transformer) -> None:  # identity I12
    tokens, mask = padded()
    targets, foils = [3, 4, 5], [6, 7, 8]
    f = site_function(model, (tokens, mask), logit_difference(targets, foils))
    zero = torch.zeros_like(f.value) + 0.1
    together = [integrated_gradients(f, zero).attribution, gradient_x_input(f, zero), occlusion(f, zero)]
    assert all((found[~mask] == 0).all() for found in together)
    for i, n in enumerate(mask.sum(1).tolist()):
        alone = site_function(model, (tokens[i : i + 1, :n],), logit_difference(targets[i], foils[i]))
        one = torch.zeros_like(alone.value) + 0.1
        for found, single in zip(
            together, (integrated_gradients(alone, one).attribution, gradient_x_input(alone, one), occlusion(alone, one)), strict=True
        ):
            torch.testing.assert_close(found[i, :n], single[0], rtol=1e-5, atol=1e-8)


def test_gradients_do_not_reach_padding_at_all(model: Transformer) -> None:
    tokens, mask = padded()
    f = site_function(model, (tokens, mask), logit_difference(3, 4))
    values = f.value.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(values).sum(), values)
    assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any()


def test_only_examples_that_do_not_add_up_are_refined() -> None:
    """Beyond a logit of 3 the slope is another: a kink that Gauss–Legendre does not integrate, on the way of one example but not of the other."""
    f = site_function(Known(lambda y: y + 2 * (y.abs() - 3).relu()), (TOKENS,), logit_difference(3, 4))
    base = torch.zeros_like(f.value)
    base[1] = 0.9 * f.value[1]
    coarse, fine = integrated_gradients(f, base, n_steps=4, max_steps=4), integrated_gradients(f, base, n_steps=4, max_steps=400)
    assert float(coarse.gap[0]) > 1e-3 >= float(fine.gap.max()) and float(coarse.gap[1]) <= 1e-3
    assert coarse.n_steps.tolist() == [4, 4] and 4 < int(fine.n_steps[0]) <= 400 and int(fine.n_steps[1]) == 4


def test_nothing_to_share_out() -> None:
    f = site_function(Known(lambda y: y), (TOKENS,), logit_difference(3, 4))
    same = integrated_gradients(f, f.value)
    assert same.gap.isnan().all() and (same.attribution == 0).all() and same.n_steps.tolist() == [0, 0]


@pytest.mark.parametrize("metric", [logit_difference([3, 4, 5], [6, 7, 8]), loss()], ids=["last position", "all positions"])
def test_stacks_and_repeated_examples(model: Transformer, metric: Metric) -> None:
    f = site_function(model, padded(), metric)
    whole = f(f.value).detach()
    torch.testing.assert_close(whole, metric(model, padded()), rtol=1e-9, atol=1e-9)
    rows = [2, 0, 2, 2, 1]
    torch.testing.assert_close(f(torch.cat([f.value[rows]] * 2), rows).detach(), whole[rows * 2], rtol=1e-9, atol=1e-9)


def test_mistakes_are_sentences(model: Transformer) -> None:
    inputs = padded()
    with pytest.raises(SiteError, match=r"attribution is to one site, 'blocks.\*.resid_post' matches 2: blocks.0.resid_post"):
        site_function(model, inputs, loss(), "blocks.*.resid_post")
    f = site_function(model, inputs, loss())
    with pytest.raises(SiteError, match=r"values of embed must be stacks of 3 examples of shape \(8, 16\), got \(4, 8, 16\)"):
        f(torch.zeros(4, 8, 16))
    with pytest.raises(SiteError, match="n_steps must be between 1 and max_steps=5, got 6"):
        integrated_gradients(f, torch.zeros_like(f.value), n_steps=6, max_steps=5)


def test_captum_is_imported_late() -> None:
    code = "import sys, probes, probes.attribution; sys.exit('captum' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

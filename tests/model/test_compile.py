"""Does a compiled model show and change the same values, without compiling anew for each observer?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from model import EncoderDecoder, Site, Transformer, generate, wrap
from probes import Edit, SiteError, add, intervene, observe, record, record_gradients, scale, zero
from tests.conftest import example, hugging_face, relative
from tests.model.test_generation import decoder, two_stacks

Model = Transformer | EncoderDecoder


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    trace = logging.getLogger("torch.__trace")
    kept, trace.propagate = trace.propagate, False  # torch writes down how it compiles, which pytest would keep
    yield
    trace.propagate = kept
    torch.compiler.reset()


class Counted:
    """A backend that runs what it is given and counts how often it was asked."""

    def __init__(self) -> None:
        self.n_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        self.n_graphs += 1
        return graph


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda: wrap(hugging_face("llama", 0)), "plain"),
        (lambda: wrap(hugging_face("bert", 0)), "edited"),
        (lambda: two_stacks(n_layers=1, positions="t5"), "recorded"),
    ],
)
def test_sites_of_a_compiled_model(make: Callable[[], Model], first: str) -> None:
    """Values, and the output under an edit, are those of the model itself, whichever run is the first and is compiled."""
    model = make()
    compiled, inputs = torch.compile(model, backend="eager"), example(model, "left")
    sites = ["*blocks.0.attn.pattern", "*blocks.0.ln1.scale", "logits"]
    edit = Edit("*blocks.0.attn.pattern", scale(0.3), positions=[3])
    runs = {"plain": nullcontext, "recorded": lambda: record(compiled, sites), "edited": lambda: intervene(compiled, edit)}
    expected = {name: observed(run, model, inputs) for name, run in runs.items()}
    assert relative(expected["edited"]["output"], expected["plain"]["output"]) > 1e-3
    for name in (first, *(name for name in runs if name != first), "plain"):  # in the end nothing stays
        got = observed(runs[name], compiled, inputs)
        assert set(got) == set(expected[name])
        for site in got:
            assert relative(got[site], expected[name][site]) < 1e-5, site


def observed(run: Callable[[], AbstractContextManager], model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    with run() as activations:
        output = model(*inputs)
    return {"output": output, **(activations or {})}


@torch.no_grad()
def test_observers_come_and_go_without_compiling_again() -> None:
    model, backend = decoder(positions="rotary"), Counted()
    compiled, inputs = torch.compile(model, backend=backend), example(decoder(), "right")
    expected = compiled(*inputs)
    plain = backend.n_graphs
    for i in range(9):  # more often than torch compiles one function
        with record(model, "blocks.*.attn.z") as a:
            compiled(*inputs)
        with intervene(model, Edit("blocks.0.attn.z", add(torch.full((6,), float(i))))):
            edited = compiled(*inputs)
        with intervene(model, Edit("blocks.0.attn.z", add(torch.full((6,), float(i))))):
            assert relative(edited, model(*inputs)) < 1e-5
        if i == 0:
            once = backend.n_graphs
    assert 0 < plain < once == backend.n_graphs
    assert torch.equal(a["blocks.1.attn.z"], _recorded(model, inputs, "blocks.1.attn.z"))
    assert torch.equal(compiled(*inputs), expected) and backend.n_graphs == once


def _recorded(model: Model, inputs: tuple[Tensor, ...], name: str) -> Tensor:
    with record(model, name) as activations:
        model(*inputs)
    return activations[name]


def test_gradients_through_a_compiled_model() -> None:
    model = decoder(positions="rotary")
    compiled, inputs, name = torch.compile(model, backend="aot_eager"), example(model, "left"), "blocks.0.attn.z"
    got = []
    for f in (model, compiled):
        with record_gradients(model, name) as gradients:
            f(*inputs).square().sum().backward()
        with record(model, name, gradients=True) as a:
            output = f(*inputs).square().sum()
        got += [gradients[name], torch.autograd.grad(output, a[name])[0]]
    for other in got[1:]:
        assert relative(other, got[0]) < 1e-5


@torch.no_grad()
def test_generation_of_a_compiled_model() -> None:
    model = decoder(positions="rotary")
    tokens = example(model)[0]
    expected = generate(model, tokens, n_new=4)
    model.compile(backend="eager")
    model(tokens)
    with record(model, "blocks.0.attn.pattern") as a:
        assert torch.equal(generate(model, tokens, n_new=4).tokens, expected.tokens)
    assert a["blocks.0.attn.pattern"].shape == (3, 4, 14, 14)


class Named(nn.Module):
    """A module whose whole computation can be one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site("mlp_out")

    def sites(self) -> dict[str, Site]:
        return {"mlp_out": self.site}

    def forward(self, x: Tensor) -> Tensor:
        return self.site(x.sin()) + 1


def test_one_graph_holds_no_observer() -> None:
    module, x = Named(), torch.ones(1, 2, 3)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), x.sin() + 1)  # unobserved sites do not divide it
    with pytest.raises(Exception, match="torch.compiler.disable"):
        with record(module, "mlp_out"):
            compiled(x)
    assert not module.site.observed and torch.equal(compiled(x), x.sin() + 1)


@torch.no_grad()
def test_hooks_of_foreign_modules_that_were_skipped_are_an_error() -> None:
    tower = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    x, observed = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), {"blocks.*.mlp_out": "_orig_mod.*:output"}
    compiled = torch.compile(tower, backend="eager")
    model, expected = observe(compiled, observed), compiled(x)
    for skipped in (lambda: record(model, "*"), lambda: intervene(model, Edit("blocks.0.mlp_out", zero()))):
        with pytest.raises(SiteError, match="blocks.0.mlp_out.* did not fire: .* took a compiled path that skips hooks"):
            with skipped():
                model(x)
    torch.compiler.reset()
    with intervene(model, Edit("blocks.0.mlp_out", zero())):  # compiled with the hook in place, it fires, and leaves
        assert not torch.allclose(model(x), expected)
    assert torch.allclose(model(x), expected)

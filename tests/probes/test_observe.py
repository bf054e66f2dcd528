"""Can research code with a model of its own use the same probes?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model import wrap
from probes import Edit, SiteError, UnknownSiteError, ablate_heads, intervene, loss, observe, record, scale, sweep, zero
from tests.conftest import hugging_face

NAMES = {
    "blocks.*.attn.z": "transformer.h.*.attn.c_proj:input",
    "blocks.*.resid_post": "transformer.h.*:output",
    "blocks.*.mlp_out": "transformer.h.*.mlp:output",
    "embed": "transformer.wte:output",
}


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return hugging_face("gpt2", 0).requires_grad_(False)


@torch.no_grad()
def test_sites_equal_ours(theirs: nn.Module) -> None:
    tokens = torch.randint(100, (2, 7), generator=torch.Generator().manual_seed(0))
    ours, seen = wrap(theirs), observe(theirs, NAMES, n_heads=5)
    assert seen.sites()["blocks.1.attn.z"].axes == ("batch", "pos", "head", "d_head") and len(seen.sites()) == 10
    with record(ours, list(seen.sites())) as a, record(seen, "*") as b:
        assert torch.allclose(ours(tokens), seen(tokens), atol=1e-4)
    for name in b:
        assert a[name].shape == b[name].shape and torch.allclose(a[name], b[name], atol=1e-4), name
    for name in seen.sites():
        heads = [2] if name.endswith(".z") else None
        with (
            intervene(ours, Edit(name, scale(0.3), heads=heads, positions=[1, 3])),
            intervene(seen, Edit(name, scale(0.3), heads=heads, positions=[1, 3])),
        ):
            assert torch.allclose(ours(tokens), seen(tokens), atol=1e-4), name
    fast, slow = (sweep(m, (tokens,), ablate_heads(m, zero()), loss()) for m in (ours, seen))
    assert abs(fast["effect"] - slow["effect"]).max() < 1e-4


def test_no_hook_stays(theirs: nn.Module) -> None:
    seen = observe(theirs, NAMES, n_heads=5)
    with record(seen, "*"):
        seen(torch.tensor([[1, 2]]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in theirs.modules())


def test_wrong_names(theirs: nn.Module) -> None:
    for names, kind, message in (
        ({"z": "transformer.h.0.attn.c_proj"}, SiteError, "a place is 'submodule:input' or 'submodule:output', got"),
        ({"z": "transformer.h.0.attn.c_prj:input"}, UnknownSiteError, "did you mean transformer.h.0.attn.c_proj"),
        ({"blocks.*.z": "transformer.h.0:input"}, SiteError, "the same number of"),
    ):
        with pytest.raises(kind, match=message):
            observe(theirs, names)
    with pytest.raises(SiteError, match="cannot be split into 7 heads, its width is 30"):
        seen = observe(theirs, {"blocks.*.attn.z": "transformer.h.*.attn.c_proj:input"}, n_heads=7)
        with record(seen, "*"):
            seen(torch.tensor([[1]]))
    with pytest.raises(SiteError, match="needs to know model.n_heads"):
        ablate_heads(observe(theirs, NAMES), zero())


def test_outputs_that_are_no_logits() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, *, y: torch.Tensor | None = None) -> dict:
            return {"out": self.inner(input=x)}

    odd = observe(Odd(), {"mlp_out": "inner:input"}, logits=lambda output: output["out"])
    with record(odd, "mlp_out") as a:  # a keyword argument is an input too
        odd(torch.ones(1, 2, 3))
    assert a["mlp_out"].shape == (1, 2, 3)
    with pytest.raises(SiteError, match="the module returned dict, not logits; say how"):
        observe(Odd(), {"mlp_out": "inner:output"})(torch.ones(1, 2, 3))

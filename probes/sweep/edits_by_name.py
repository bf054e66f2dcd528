"""Which edits make up a well-known experiment?"""

from __future__ import annotations

from collections.abc import Sequence

from probes.edits import Change, Edit, whole_numbers
from probes.errors import SiteError
from probes.observable import Observable, find, layer_of


def ablate_heads(model: Observable, change: Change, *, layers: Sequence[int] | None = None, attention: str = "*attn") -> list[Edit]:
    """One edit per attention head: its output z becomes zero, the mean of a reference, … (Michel et al. 2019).

    A model of two stacks has three kinds of attention, and all of them are taken; `attention` is a glob that chooses among
    their names: `decoder.*.cross_attn`, `encoder.*`. `layers` are numbers of blocks within their stack.

    Raises UnknownSiteError where nothing matches, SiteError where the model does not say how many heads it has, or has no
    such layer.

    >>> from model import Transformer, TransformerConfig; from probes import zero
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> [(edit.site, edit.heads) for edit in ablate_heads(model, zero())]
    [('blocks.0.attn.z', (0,)), ('blocks.0.attn.z', (1,)), ('blocks.1.attn.z', (0,)), ('blocks.1.attn.z', (1,))]
    """
    names = find(f"{attention}.z", model.sites())
    if layers is not None:
        layers = whole_numbers(layers, "layers")
        names = [name for name in names if layer_of(name) in set(layers)]
        if missing := sorted(set(layers) - {layer_of(name) for name in names}):
            raise SiteError(f"there is no layer {missing[0]} with a site {attention}.z")
    return [Edit(name, change, heads=[head]) for name in names for head in range(heads_at(model, name))]


def heads_at(model: Observable, site: str) -> int:
    """How many heads a site has. Raises SiteError where the model does not say."""
    if hasattr(model, "n_heads_at"):
        return model.n_heads_at(site)
    n_heads = getattr(model, "n_heads", None)
    if n_heads is None:
        raise SiteError("ablate_heads needs to know model.n_heads; give observe(..., n_heads=...)")
    return n_heads

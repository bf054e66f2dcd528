"""How does a model of one's own become observable? By naming the inputs and outputs of its submodules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from probes.errors import SiteError, UnknownSiteError

PER_HEAD = {"q": "head", "z": "head", "k": "kv_head", "v": "kv_head"}
"""Sites that our models show per head, and the axis that says so."""


class Tapped:
    """A site at the input or the output of a submodule. Torch's hook is there only while somebody looks."""

    def __init__(self, module: nn.Module, at: str, name: str, axes: tuple[str, ...], n_heads: int | None) -> None:
        self.axes = axes
        self._module, self._at, self._name, self._n_heads = module, at, name, n_heads
        self._edits: dict[object, Callable] = {}
        self._watchers: dict[object, Callable] = {}
        self._handle: Any = None

    def edit(self, change: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        """Replace the value by `change(value)` until the returned function is called."""
        return self._add(self._edits, change)

    def watch(self, look: Callable[[Tensor], Any]) -> Callable[[], None]:
        """Show `look` every value, after all edits, until the returned function is called."""
        return self._add(self._watchers, look)

    def __repr__(self) -> str:
        return f"Tapped({' '.join(self.axes)})"

    def _add(self, taps: dict[object, Callable], tap: Callable) -> Callable[[], None]:
        key = object()
        taps[key] = tap
        if self._handle is None:
            self._handle = self._hook()

        def remove() -> None:
            taps.pop(key, None)
            if not self._edits and not self._watchers and self._handle is not None:
                self._handle.remove()
                self._handle = None

        return remove

    def _hook(self) -> Any:
        if self._at == "output":
            return self._module.register_forward_hook(lambda module, args, output: _with_first(output, self._pass(_first(output, self._name))))

        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (self._pass(args[0]), *args[1:]), kwargs
            key = next(iter(kwargs))
            return args, {**kwargs, key: self._pass(kwargs[key])}

        return self._module.register_forward_pre_hook(before, with_kwargs=True)

    def _pass(self, value: Tensor) -> Tensor:
        merged = self._n_heads is not None and value.dim() == len(self.axes) - 1
        if merged:
            if value.shape[-1] % self._n_heads:
                raise SiteError(f"{self._name} cannot be split into {self._n_heads} heads, its width is {value.shape[-1]}")
            value = value.unflatten(-1, (self._n_heads, -1))
        if value.dim() != len(self.axes):
            raise SiteError(f"{self._name} should have the axes {' '.join(self.axes)}, but its tensor has shape {tuple(value.shape)}")
        for change in tuple(self._edits.values()):
            value = change(value)
        for look in tuple(self._watchers.values()):
            look(value)
        return value.flatten(-2) if merged else value


def _first(output: Any, name: str) -> Tensor:
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor):
        raise SiteError(f"{name} should be a tensor, or a tuple that begins with one, got {type(first).__name__}")
    return first


def _with_first(output: Any, value: Tensor) -> Any:
    return type(output)((value, *output[1:])) if isinstance(output, tuple | list) else value


class Observed:
    """A torch module with named sites; calling it calls the module and gives its logits."""

    def __init__(self, module: nn.Module, sites: dict[str, Tapped], logits: Callable[[Any], Tensor], n_heads: int | None, tokenizer: Any) -> None:
        self.module, self.n_heads, self.tokenizer = module, n_heads, tokenizer
        self._sites, self._logits = sites, logits

    def sites(self) -> Mapping[str, Tapped]:
        """The named sites, in the order of the module's own submodules."""
        return dict(self._sites)

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        return self._logits(self.module(*inputs, **options))


def observe(
    module: nn.Module, names: Mapping[str, str], *, n_heads: int | None = None, n_kv_heads: int | None = None,
    logits: Callable[[Any], Tensor] | None = None, tokenizer: Any = None,
) -> Observed:
    """Make any torch module observable: our site names → `submodule:input` or `submodule:output`, globs allowed.

    The module is not changed. A `*` on the left takes what the `*` on the right matched. `input` is the submodule's
    first argument, `output` its result or the first of several. With `n_heads`, sites called `q` and `z` (and with
    `n_kv_heads`, `k` and `v`) are shown per head, [batch pos head d_head], whatever the module's own layout
    [batch, pos, n_heads · d_head]. `logits` says how the module's output becomes logits; tensors and objects with a
    `logits` attribute need nothing said.

    Raises SiteError for a place that is not of that form, UnknownSiteError for a submodule that does not exist.

    >>> import torch
    >>> tower = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> sorted(observe(tower, {"blocks.*.mlp_out": "*:output"}).sites())
    ['blocks.0.mlp_out', 'blocks.1.mlp_out', 'blocks.2.mlp_out']
    """
    submodules = dict(module.named_modules())
    counts = {"head": n_heads, "kv_head": n_kv_heads or n_heads}
    sites: dict[str, Tapped] = {}
    for ours, place in names.items():
        path, _, at = place.rpartition(":")
        if at not in ("input", "output") or not path:
            raise SiteError(f"a place is 'submodule:input' or 'submodule:output', got {place!r}")
        if ours.count("*") != path.count("*"):
            raise SiteError(f"{ours!r} and {path!r} must have the same number of *")
        pattern = re.compile("([^.]+)".join(map(re.escape, path.split("*"))))
        hits = [(name, found.groups()) for name in submodules if (found := pattern.fullmatch(name))]
        if not hits:
            raise UnknownSiteError(path, [name for name in submodules if name])
        for name, groups in hits:
            filled = ours.replace("*", "{}").format(*groups)
            axes = _axes(filled, counts)
            heads = counts.get(axes[2]) if len(axes) == 4 and axes[3] == "d_head" else None
            sites[filled] = Tapped(submodules[name], at, filled, axes, heads)
    return Observed(module, sites, logits or _logits, n_heads, tokenizer)


def _axes(name: str, counts: Mapping[str, int | None]) -> tuple[str, ...]:
    word = name.rpartition(".")[2]
    if word in ("scores", "pattern"):
        return ("batch", "head", "query", "key")
    axis = PER_HEAD.get(word)
    return ("batch", "pos", axis, "d_head") if axis and counts[axis] else ("batch", "pos", "d_model")


def _logits(output: Any) -> Tensor:
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise SiteError(f"the module returned {type(output).__name__}, not logits; say how: observe(..., logits=lambda output: output[0])")
    return output

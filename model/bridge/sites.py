"""How is a hook of TransformerLens watched and changed like a site of ours? It is there only while somebody looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.sites import AXES, Site, Tap

STREAM = AXES["resid_pre"]


class ResultSwitch:
    """Turns on the bridge's `use_attn_result` while somebody looks at a `result`, and puts back what was there."""

    def __init__(self, bridge: Any) -> None:
        self._bridge, self._lookers, self._before = bridge, 0, False

    def on(self) -> None:
        if self._lookers == 0:
            self._before = bool(self._bridge.cfg.use_attn_result)
            if not self._before:
                self._bridge.set_use_attn_result(True)
        self._lookers += 1

    def off(self) -> None:
        self._lookers -= 1
        if self._lookers == 0 and not self._before:
            self._bridge.set_use_attn_result(False)


class BridgeSite:
    """One hook of TransformerLens with our axes, and our meaning of what is masked.

    `edit` and `watch` are those of `Site`. In `scores`, the large negative number that stands for "not seen" is shown as −inf,
    and an edit of it is masked again. Where the hook stands on a branch of the stream (what a norm reads), an edit is carried
    into the stream too: `carry` is the hook of the block's end, to which the difference is added. Behind a QK-norm (`normed`), heads stand before positions, or not apart.
    """

    def __init__(
        self, name: str, hook: Any, *, d_head: int, normed: bool = False, switch: ResultSwitch | None = None, carry: Any = None
    ) -> None:
        self.name, self.hook = name, hook
        self._word, self._d_head, self._normed, self._switch, self._carry = name.rpartition(".")[2], d_head, normed, switch, carry
        self._site = Site(self._word, AXES.get(self._word, STREAM))
        self.axes = self._site.axes
        self._handles: list[tuple[Any, Any]] = []
        self._difference: Tensor | None = None

    def edit(self, change: Tap) -> Callable[[], None]:
        """Replace the value by `change(value)` until the returned function is called."""
        return self._held(self._site.edit(change))

    def watch(self, look: Tap) -> Callable[[], None]:
        """Show `look` every value, after all edits, until the returned function is called."""
        return self._held(self._site.watch(look))

    def __repr__(self) -> str:
        return f"BridgeSite({' '.join(self.axes)})"

    def _held(self, release: Callable[[], None]) -> Callable[[], None]:
        if not self._handles:
            if self._switch is not None:
                try:
                    self._switch.on()
                except Exception:
                    release()
                    raise
            self._handles = [_hooked(self.hook, self._pass)]
            if self._carry is not None:
                self._handles.append(_hooked(self._carry, self._end, first=True))

        def remove() -> None:
            release()
            if self._handles and not self._site.observed:
                self._detach()

        return remove

    def _detach(self) -> None:
        handles, self._handles, self._difference = self._handles, [], None
        for hook, handle in handles:
            handle.hook.remove()
            hook.fwd_hooks[:] = [other for other in hook.fwd_hooks if other is not handle]
        if self._switch is not None:
            self._switch.off()

    def _pass(self, value: Tensor, hook: Any) -> Tensor | None:
        shown, put_back = self._shown(value)
        after = self._site(shown)
        if after is shown:
            self._difference = None
            return None
        self._difference = None if self._carry is None else after - value
        return put_back(after)

    def _end(self, stream: Tensor, hook: Any) -> Tensor | None:
        difference, self._difference = self._difference, None
        return None if difference is None else stream + difference

    def _shown(self, value: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The value along our axes, and the way back."""
        if self._word == "scores":
            return _with_masked_scores(value)
        if self._normed:
            if value.dim() == 4:  # batch head pos d_head
                return value.transpose(1, 2), lambda heads: heads.transpose(1, 2)
            return value.unflatten(-1, (-1, self._d_head)), lambda heads: heads.flatten(-2)
        return value, lambda same: same


def _hooked(hook: Any, function: Callable, *, first: bool = False) -> tuple[Any, Any]:
    hook.add_hook(function, prepend=first)
    return hook, hook.fwd_hooks[0 if first else -1]


def _with_masked_scores(scores: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    hidden = scores <= torch.finfo(scores.dtype).min / 2

    def put_back(edited: Tensor) -> Tensor:
        blinded = edited.masked_fill(hidden, -torch.inf).isneginf().all(-1) & ~hidden.all(-1)
        if blinded.any():
            raise ValueError(
                f"an edit of scores leaves {int(blinded.sum())} queries nothing to see, of which TransformerLens makes NaN; "
                "set the rows of pattern to 0 instead"
            )
        return torch.where(hidden, scores, edited)

    return scores.masked_fill(hidden, -torch.inf), put_back

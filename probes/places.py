"""Which places of a text does a value hold? While text is generated every pass computes some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from probes.errors import SiteError


class WindowLike(Protocol):
    """What a site's `window` says during a pass of generation: the value's places are those from `first` on, among `size`.

    All passes that write one text have the same `run`; there are `n_beams` rows for each example.
    """

    first: int
    size: int
    run: object
    n_beams: int


def window_of(site: Any) -> WindowLike | None:
    """The window of a site; None where its value holds the whole sequence."""
    return getattr(site, "window", None)


def n_beams(window: WindowLike | None) -> int:
    """Rows for each example."""
    return 1 if window is None else window.n_beams


def place_axis(axes: tuple[str, ...]) -> int | None:
    """The axis that counts places.

    >>> place_axis(("batch", "head", "query", "key"))
    2
    """
    return next((i for i, name in enumerate(axes) if name in ("pos", "query")), None)


@dataclass
class Parts:
    """What one site gave: one value, or, while text is generated, the places that each pass was the first to compute."""

    name: str
    axes: tuple[str, ...]
    parts: list[Tensor] = field(default_factory=list)
    run: object | None = None
    n_places: int = 0

    def add(self, value: Tensor, window: WindowLike | None) -> None:
        """Keep a copy of what is new. Raises SiteError for a second pass that does not go on with the same text, and for beams."""
        if window is None:
            self.hold(value.clone())
            return
        if self.parts and window.run is not self.run:
            raise self._second()
        if window.n_beams > 1:
            raise SiteError(
                f"{self.name} cannot be recorded with n_beams={window.n_beams}: beams change places between passes; "
                "record a forward pass over the finished text, or generate with one beam"
            )
        axis, known = place_axis(self.axes), self.n_places - window.first
        if known < value.shape[axis]:
            self.parts.append(value.narrow(axis, known, value.shape[axis] - known).clone())
            self.run, self.n_places = window.run, window.first + value.shape[axis]

    def hold(self, value: Tensor) -> None:
        """Keep this very value, of the only pass. Raises SiteError if there was one before."""
        if self.parts:
            raise self._second()
        self.parts.append(value)

    def _second(self) -> SiteError:
        held = "one forward pass, or one text that is generated"
        return SiteError(f"{self.name} fired a second time: one record holds {held}; open another record for the next")

    def joined(self) -> Tensor:
        """All places; a query's row has 0 (`scores`: −inf) at keys that its pass had not read."""
        if len(self.parts) > 1:
            parts = self.parts
            if self.axes[-1] == "key":
                longest, nothing = parts[-1].shape[-1], -torch.inf if self.name.endswith("scores") else 0.0
                parts = [F.pad(part, (0, longest - part.shape[-1]), value=nothing) for part in parts]
            self.parts = [torch.cat(parts, dim=place_axis(self.axes))]
        return self.parts[0]


class Joined(Mapping[str, Tensor]):
    """The values of the sites that have given one, each put together when it is asked for."""

    def __init__(self, kept: Mapping[str, Parts]) -> None:
        self._kept = kept

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        return self._kept[name].joined()

    def __contains__(self, name: object) -> bool:
        return name in self._kept and bool(self._kept[name].parts)

    def __iter__(self) -> Iterator[str]:
        return (name for name, parts in self._kept.items() if parts.parts)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where a value stands that is edited: the places of a text, and which of its entries the edit chooses (None: all)."""

    value: Tensor
    axes: tuple[str, ...]
    window: WindowLike | None
    chosen: Tensor | None

    @property
    def n_examples(self) -> int:
        """Examples, of which each has one row, or as many as there are beams."""
        return len(self.value) // n_beams(self.window)

    def of(self, values: Tensor, need: str) -> Tensor:
        """The part of reference values, one row for each example, that stands where the value does.

        While text is generated, that is the reference's value at the same place. Where the reference ends earlier, the
        value itself is given, which an edit must not choose.

        Raises SiteError, which says what the change needs, for values of another shape and for a reference that ends too early.
        """
        values = values.to(self.value).repeat_interleave(n_beams(self.window), dim=0)
        if self.window is None or values.dim() != self.value.dim():
            if values.shape != self.value.shape:
                raise SiteError(f"{need}: it has shape {tuple(values.shape)}, the value {tuple(self.value.shape)}")
            return values
        axis, first = place_axis(self.axes), self.window.first
        n_held = min(values.shape[axis] - first, self.value.shape[axis])
        if n_held < self.value.shape[axis]:
            self._check_unchosen(axis, max(n_held, 0), values.shape[axis], need)
        if n_held <= 0:
            return self.value
        return self._over(self._same_keys(values, axis).narrow(axis, first, n_held), axis, need)

    def _check_unchosen(self, axis: int, n_held: int, n_reference: int, need: str) -> None:
        if self.chosen is not None and self.chosen.shape[axis] > 1:
            beyond = self.chosen.narrow(axis, n_held, self.value.shape[axis] - n_held)
        else:
            beyond = None
        if beyond is None or bool(beyond.any()):
            raise SiteError(f"{need}: it has {n_reference} places, the text has more; name positions below {n_reference} in the edit")

    def _same_keys(self, values: Tensor, axis: int) -> Tensor:
        """Of a recording of a text's attention to itself, the keys that have been read by now, and 0 behind those it holds."""
        n_keys, own = self.value.shape[-1], values.shape[-1] == values.shape[axis]
        if self.axes[-1] != "key" or not own or n_keys != self.window.first + self.value.shape[axis]:
            return values
        return values[..., :n_keys] if values.shape[-1] >= n_keys else F.pad(values, (0, n_keys - values.shape[-1]))

    def _over(self, part: Tensor, axis: int, need: str) -> Tensor:
        """The part, and behind it the value itself."""
        rest = self.value.narrow(axis, part.shape[axis], self.value.shape[axis] - part.shape[axis])
        if part.shape[:axis] + part.shape[axis + 1 :] != rest.shape[:axis] + rest.shape[axis + 1 :]:
            raise SiteError(f"{need}: it has shape {tuple(part.shape)}, the value {tuple(self.value.shape)}")
        return torch.cat((part, rest), dim=axis)

"""Which colour does a value get? Sequential viridis, or blue–red centred on zero; missing is grey; the range is printed."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, PowerNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from reports.drawing.bitmap import BACKDROP, condensed
from reports.drawing.canvas import FONT, GREY, MUTED, RULE, SMALL, axes, numbers, write
from reports.text import format_number, visible_label


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From `low` to `high`; the flags say whether values lie outside or are missing. `root` spreads the small values."""

    low: float
    high: float
    signed: bool
    below: bool = False
    above: bool = False
    missing: bool = False
    root: bool = False

    @property
    def norm(self) -> Normalize:
        return PowerNorm(0.5, self.low, self.high, clip=True) if self.root else Normalize(self.low, self.high, clip=True)

    @property
    def colors(self) -> Colormap:
        return matplotlib.colormaps["RdBu_r" if self.signed else "viridis"].with_extremes(bad=GREY)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Float[..., 4] colours, red, green, blue and opacity from 0 to 1, of Float[...] values."""
        return self.colors(self.norm(self.shown(values)))

    def shown(self, values: np.ndarray) -> np.ma.MaskedArray:
        """Float[...] values as they get a colour: infinities are the end of the scale, NaN is masked."""
        return np.ma.masked_invalid(np.clip(np.asarray(values, dtype=float), self.low, self.high))


def scale_of(values: np.ndarray, signed: bool, low: float | None = None, high: float | None = None, root: bool = False) -> Scale | None:
    """The scale that shows these values, or None where none of them is finite."""
    values = np.asarray(values, dtype=float)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    least, most = float(finite.min()), float(finite.max())
    low, high = (end if end is not None and np.isfinite(numbers(end)) else None for end in (low, high))
    if signed:
        ends = [abs(end) for end in (low, high) if end is not None] or [-least, most]
        bound = max(max(ends), 0.0) or 1.0
        start, stop = -bound, bound
    else:
        start, stop = least if low is None else float(low), most if high is None else float(high)
        if stop <= start:
            start, stop = (min(0.0, start), max(0.0, start)) if start else (0.0, 1.0)
    beyond = {"below": bool((values < start).any()), "above": bool((values > stop).any())}
    return Scale(low=start, high=stop, signed=signed, missing=bool(np.isnan(values).any()), root=root and start == 0, **beyond)


def ink_on(colors: np.ndarray) -> list[str]:
    """Black or white for text on each of Float[n, 4] colours, whichever has more contrast."""
    linear = np.where(colors[:, :3] <= 0.04045, colors[:, :3] / 12.92, ((colors[:, :3] + 0.055) / 1.055) ** 2.4)
    return ["#000000" if light > 0.179 else "#ffffff" for light in linear @ np.array([0.2126, 0.7152, 0.0722])]


def shade(panel: Axes, values: np.ndarray, scale: Scale, *, hidden: np.ndarray | None = None) -> AxesImage:
    """Fill the axes with Float[rows, columns] values in the scale's colours, the first row on top, cell (0, 0) around the point (0, 0).

    More than two values per CSS pixel are averaged. `hidden`, Bool[rows, columns], is what has no colour at all: a quiet grey.
    """
    rows, columns = values.shape
    place = panel.get_window_extent()
    few = condensed(values, place.width, place.height)
    sharp = few.shape[0] <= place.height and few.shape[1] <= place.width
    clear = None
    if hidden is not None and hidden.any() and few.shape == values.shape:
        clear = np.where(hidden, 0.0, 1.0)
        panel.add_patch(Rectangle((0, 0), 1, 1, transform=panel.transAxes, facecolor=RULE, edgecolor="none", zorder=-1, gid=BACKDROP))
    return panel.imshow(scale.shown(few), alpha=clear, cmap=scale.colors, norm=scale.norm, aspect="auto", extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
                        interpolation="nearest" if sharp else "bilinear")


def color_bar(canvas: Canvas, scale: Scale, unit: str, left: float, top: float, length: float, *, upright: bool, of: ScalarMappable | None = None) -> None:
    """The colours with their numbers and unit: upright to the right of a map, lying above a text. CSS pixels.

    `of` is what the colours belong to: when its user changes its colour map, the bar follows.
    """
    beside = axes(canvas, left, top, 12, length) if upright else axes(canvas, left, top, length, 12)
    mappable = of or ScalarMappable(norm=scale.norm, cmap=scale.colors)
    bar = canvas.colorbar(mappable, cax=beside, orientation="vertical" if upright else "horizontal")
    bar.outline.set_visible(False)
    shares = np.linspace(0, 1, 3 if length <= 90 else 6 if scale.root else 5)
    marks = [scale.low + (scale.high - scale.low) * share ** (2 if scale.root else 1) for share in shares]
    texts = [format_number(float(f"{mark:.3g}")) for mark in marks]
    texts[0], texts[-1] = ("≤ " if scale.below else "") + texts[0], ("≥ " if scale.above else "") + texts[-1]
    bar.set_ticks(marks, labels=texts)
    bar.minorticks_off()
    label = (visible_label(unit) if unit not in ("", "1") else "value") + (" (√ scale)" if scale.root else "")
    if upright:
        bar.set_label(label, size=SMALL)
    else:
        write(canvas, left + length + 22, top + 6, label)


def missing_key(canvas: Canvas, left: float, top: float) -> None:
    """A grey square and what it means: nothing was measured there."""
    grey_key(canvas, left, top, "no value (NaN)", GREY)


def grey_key(canvas: Canvas, left: float, top: float, means: str, grey: str) -> None:
    """A square of this grey and what it means."""
    square = axes(canvas, left, top - 5, 10, 10)
    square.add_patch(Rectangle((0, 0), 1, 1, facecolor=grey, edgecolor="none"))
    square.set_axis_off()
    write(canvas, left + 15, top, means, size=min(SMALL, FONT), color=MUTED)

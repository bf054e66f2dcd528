"""How is a distribution shown? One filled outline of the counts between the edges."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from reports.drawing.canvas import BLUE, FONT, Picture, axes, nothing_to_draw, numbers, write
from reports.figures import Histogram
from reports.text import format_number, visible_label


def picture(figure: Histogram) -> Picture:
    """The histogram; bins with an infinite edge or a missing count are named below, not drawn."""
    counts, edges = numbers(figure.counts), numbers(figure.edges)
    finite = np.isfinite(edges[:-1]) & np.isfinite(edges[1:]) & np.isfinite(counts)
    if not finite.any():
        return nothing_to_draw(figure, f"nothing to draw: none of {counts.size} bins has a count and finite edges")
    left_out = int((~finite).sum())
    width, plot_height = 520, 220
    height = 12 + plot_height + 48 + (18 if left_out else 0)

    def paint(canvas: Canvas) -> None:
        plot = axes(canvas, 74, 12, width - 90, plot_height)
        floor = 0.5 if figure.log_y else 0.0
        for run in np.split(np.flatnonzero(finite), np.flatnonzero(np.diff(np.flatnonzero(finite)) > 1) + 1):
            heights = np.maximum(counts[run], floor)
            plot.stairs(heights, edges[run[0]: run[-1] + 2], baseline=floor, fill=True, facecolor=BLUE, edgecolor=BLUE, linewidth=0.6)
        if figure.log_y:
            plot.set_yscale("log")
            plot.yaxis.set_minor_formatter(NullFormatter())
        else:
            plot.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        plot.set_ylim(bottom=floor, top=None if counts[finite].max() > floor else 1)
        plot.grid(axis="y", linewidth=0.7)
        for axis in (plot.xaxis, plot.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(float(f"{value:.6g}"))))
        plot.set_xlabel(visible_label(figure.x_label), size=FONT)
        plot.set_ylabel("count", size=FONT)
        if left_out:
            write(canvas, 74, height - 9, f"{left_out} of {counts.size} bins without finite edges or a count are not drawn")

    return Picture(figure, width, height, paint)

"""How is an answer kept and shown? Results as values, figures as specs, a folder that holds them, and one HTML file."""

from reports.content import content_hash
from reports.draw import draw
from reports.figures import KINDS, AttentionMap, Bars, Figure, Heatmap, Histogram, Lines, Series, TokenMap
from reports.long_form import figure_data
from reports.page import page, render
from reports.result import STATUSES, Column, Evidence, Provenance, Result, Status, Table, Verdict
from reports.store import FORMAT, StoreError, load_result, load_run, save_result, save_run, write_atomically
from reports.text import format_number, visible_token

__all__ = [
    "AttentionMap",
    "Bars",
    "Column",
    "Evidence",
    "FORMAT",
    "Figure",
    "Heatmap",
    "Histogram",
    "KINDS",
    "Lines",
    "Provenance",
    "Result",
    "STATUSES",
    "Series",
    "Status",
    "StoreError",
    "Table",
    "TokenMap",
    "Verdict",
    "content_hash",
    "draw",
    "figure_data",
    "format_number",
    "load_result",
    "load_run",
    "page",
    "render",
    "save_result",
    "save_run",
    "visible_token",
    "write_atomically",
]

"""How is an answer kept and shown? Results as values, figures as specs, a folder that holds them, and one HTML file."""

from reports.content import content_hash
from reports.draw import draw
from reports.export import FORMATS, export_figures, export_run
from reports.figures import (
    KINDS,
    AttentionMap,
    Bars,
    CircuitGraph,
    Figure,
    Heatmap,
    Histogram,
    LensGrid,
    Lines,
    Series,
    TokenMap,
    Waterfall,
)
from reports.long_form import figure_data
from reports.machine import machine_report
from reports.page import page
from reports.render import render
from reports.result import (
    STATUSES,
    Column,
    Evidence,
    Provenance,
    Result,
    Status,
    Table,
    Verdict,
)
from reports.saved import (
    SavedAnalysis,
    SavedRun,
    SavedTable,
    carried,
    read_saved,
    saved_analysis,
)
from reports.store import (
    FORMAT,
    StoreError,
    load_result,
    load_run,
    save_result,
    save_run,
    write_atomically,
)
from reports.text import format_number, visible_token

__all__ = [
    "AttentionMap",
    "Bars",
    "CircuitGraph",
    "Column",
    "Evidence",
    "FORMAT",
    "FORMATS",
    "Figure",
    "Heatmap",
    "Histogram",
    "KINDS",
    "LensGrid",
    "Lines",
    "Provenance",
    "Result",
    "STATUSES",
    "SavedAnalysis",
    "SavedRun",
    "SavedTable",
    "Series",
    "Status",
    "StoreError",
    "Table",
    "TokenMap",
    "Verdict",
    "Waterfall",
    "carried",
    "content_hash",
    "draw",
    "export_figures",
    "export_run",
    "figure_data",
    "format_number",
    "load_result",
    "load_run",
    "machine_report",
    "page",
    "read_saved",
    "render",
    "save_result",
    "save_run",
    "saved_analysis",
    "visible_token",
    "write_atomically",
]

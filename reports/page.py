"""How do many results become one page? (being written)"""
from pathlib import Path


def page(results, *, title, run): ...


def render(run_folder) -> Path: ...

"""Can the CSV files be opened anywhere, without running anything and without losing a digit?"""

import csv
import io

import pandas as pd
import pytest

from reports.downloads import csv_of
from reports.text import visible_text


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_text_cannot_become_a_formula_and_numbers_stay_numbers(cell):
    frame = pd.DataFrame({cell: pd.Series([cell], dtype=object), "n": [-1.5], "i": [-3]})
    header, row = csv.reader(io.StringIO(csv_of(frame).content.decode()))
    assert header[0] == row[0] == "'" + visible_text(cell)
    assert row[1:] == ["-1.5", "-3"]


def test_csv_with_quotes_commas_and_lines_comes_back():
    cells = ['a"b', "a,b", "a\nb", " a", "é日"]
    back = list(csv.reader(io.StringIO(csv_of(pd.DataFrame({"t": cells})).content.decode(), newline="")))
    assert [row[0] for row in back[1:]] == cells


@pytest.mark.parametrize("limit", [30, 100, 1000])
def test_csv_is_cut_after_a_whole_row(limit):
    frame = pd.DataFrame({"t": ["x" * (i % 9) for i in range(500)], "n": range(500)})
    cut = csv_of(frame, limit)
    assert len(cut.content) <= limit and cut.rows_in_all == 500
    assert cut.content.decode() == frame.head(cut.rows).to_csv(index=False, lineterminator="\n")


def test_numbers_in_csv_are_exact():
    values = [0.1, 1 / 3, 1e-300, float("inf"), float("nan")]
    lines = csv_of(pd.DataFrame({"x": values})).content.decode().splitlines()
    assert [float(line) for line in lines[1:4]] == values[:3]
    assert lines[4:] == ["inf", "NaN"]


def test_csv_of_nothing():
    empty = csv_of(pd.DataFrame())
    assert (empty.content, empty.rows, empty.rows_in_all) == (b"", 0, 0)
    assert csv_of(pd.DataFrame({"a": pd.Series([], dtype=object)})).content == b"a\n"

"""Which nodes matter most? An estimate ranks all of them, exact patching settles the best, and a random check says what may have been missed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import comb
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.edits import Edit
from probes.errors import SiteError, check_evaluating
from probes.estimates.attribution_patching import attribution_patching
from probes.estimates.first_order import FirstOrder
from probes.estimates.nodes import NODE, labels_of
from probes.inputs import Inputs
from probes.metrics import Metric
from probes.observable import Observable
from probes.record import record
from probes.sweep.pairs import check_pairs
from probes.sweep.patch_grid import named, patch_sites
from probes.sweep.run import sweep

CONFIDENCE = 0.95
AT_REST = 1e-6
"""a metric that is no more than this at the clean run is a distance from it"""
Screen = FirstOrder | Literal["bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Screening:
    """How nodes are ranked, and how many are checked.

    `by` is the estimate: a `FirstOrder`, or "bfloat16", the exact sweep of a copy of the model in that format, which takes half
    its memory again, rounds, and is fast only where the processor computes in it. Exactly patched are the first `n_first` of
    the ranking (None: k; with more, a wrong estimate among them does less harm) and `n_checked` of the others, drawn at
    random. `by_position` makes a node of every place.
    """

    by: Screen = FirstOrder()
    n_first: int | None = None
    n_checked: int = 59
    by_position: bool = False


def screen_then_verify(
    model: Observable, clean: Inputs, corrupt: Inputs, metric: Metric, sites: Iterable[str] | str = "z", *, k: int,
    generator: torch.Generator, screening: Screening = Screening(),
) -> pd.DataFrame:  # fmt: skip
    """The nodes with the largest estimated effects, patched exactly, and a bound on how many nodes were missed that belong to
    the k largest.

    Ranked is the absolute mean over examples. Columns: `site`, `layer`, `head`, `position`, `rank` (1 is the largest estimate), `estimate`, `verified`, `exact` (NaN where
    not verified); both are means over examples in the unit of the metric. `attrs`: `threshold`, the k-th largest |exact| among the first; `n_exceeding`, how many of the
    random ones exceed it; `missed_at_most`, the share of the others that do, at most, at 95 % confidence. The bound assumes
    nothing about the effects: it inverts the hypergeometric distribution of the draw (the finite form of Clopper & Pearson
    1934). Where none exceeds it is no more than 1 − 0.05^(1/n_checked), which is 5 % for 59. Ctrl-C leaves the estimates and those
    nodes that are verified, `complete` then being False. A sweep goes block by block, so that what is done is no random draw:
    there is no bound but 1 then, and no threshold before all of the first are verified.

    Raises KeyboardInterrupt before there is a ranking, SiteError for k, n_first or n_checked that the nodes do not allow, and as `attribution_patching` and `sweep` do.

    >>> from model import Transformer, TransformerConfig; from probes import logit_difference
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> clean, corrupt = (torch.tensor([[1, 2, 3]]),), (torch.tensor([[1, 5, 3]]),)
    >>> table = screen_then_verify(model, clean, corrupt, logit_difference(7, 8), k=3, generator=torch.Generator().manual_seed(0))
    >>> table["verified"].tolist(), table.attrs["missed_at_most"]
    ([True, True, True, True], 0.0)
    """
    if not isinstance(generator, torch.Generator):
        raise SiteError(f"the nodes that are checked are drawn from a torch.Generator, got {generator!r}")
    by, n_checked, by_position = screening.by, screening.n_checked, screening.by_position
    check_evaluating(model)
    check_pairs(clean, corrupt)
    nodes = _patches(model, corrupt, named(sites, model.sites()), by_position)
    if not 1 <= k <= len(nodes):
        raise SiteError(f"k must be between 1 and the number of nodes, {len(nodes)}, got k={k}")
    n_first = k if screening.n_first is None else screening.n_first
    if not k <= n_first <= len(nodes):
        raise SiteError(f"n_first must be between k and the number of nodes, got k={k}, n_first={n_first} and {len(nodes)} nodes")
    if n_checked < 0:
        raise SiteError(f"n_checked must be at least 0, got {n_checked}")
    estimated = _estimated(model, clean, corrupt, metric, nodes, by_position, by)
    order = estimated.abs().argsort(descending=True, stable=True).tolist()
    n_others = len(nodes) - n_first
    drawn = torch.randperm(n_others, generator=generator)[:n_checked].tolist()
    chosen = order[:n_first] + [order[n_first + i] for i in drawn]
    swept = sweep(model, clean, [nodes[i] for i in chosen], metric)
    done = swept["edit"].unique()  # numbers among the chosen
    effects = pd.Series(swept["effect"].to_numpy(float).reshape(-1, len(clean[0])).mean(1), index=done)
    firsts, others = effects[effects.index < n_first].abs(), effects[effects.index >= n_first].abs()
    threshold = float(firsts.nlargest(k).iloc[-1]) if len(firsts) == n_first else float("nan")
    n_exceeding = int((~(others <= threshold)).sum())
    bound = most_exceeding(n_exceeding, len(others), n_others) / max(n_others, 1) if swept.attrs["complete"] else 1.0
    table = labels_of(nodes)
    table["rank"] = pd.Series({i: rank for rank, i in enumerate(order, 1)})
    table["estimate"] = estimated.tolist()
    table["exact"] = pd.Series(effects.tolist(), index=[chosen[i] for i in effects.index], dtype=float)
    table.insert(table.columns.get_loc("exact"), "verified", table["exact"].index.isin([chosen[i] for i in effects.index]))
    table.attrs = {
        "metric": metric.name, "unit": metric.unit, "exact": "where verified", "estimated": str(by), "k": k, "n_first": n_first, "threshold": threshold,
        "n_checked": len(others), "n_exceeding": n_exceeding, "confidence": CONFIDENCE,
        "missed_at_most": bound, "complete": swept.attrs["complete"], "token_steps": swept.attrs["token_steps"],
    }  # fmt: skip
    return table


def most_exceeding(found: int, drawn: int, n: int, confidence: float = CONFIDENCE) -> int:
    """The largest number of n things that can be of a kind when `found` of `drawn` without replacement are, at this confidence.

    >>> most_exceeding(0, 59, 1000), most_exceeding(0, 100, 100), most_exceeding(2, 59, 1000)
    (48, 0, 100)
    """

    def so_few(kind: int) -> float:
        """How likely so few of them are drawn."""
        ways = sum(comb(kind, i) * comb(n - kind, drawn - i) for i in range(min(found, kind) + 1) if drawn - i <= n - kind)
        return ways / comb(n, drawn)

    low, high = found, n - (drawn - found)  # so_few falls with the number of the kind
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if so_few(middle) > 1 - confidence else (low, middle - 1)
    return low


def recall(table: pd.DataFrame, truth: pd.DataFrame) -> float:
    """The share of the k truly largest nodes that `screen_then_verify` had among its first.

    `truth` is a sweep of the same nodes, all of them, with a row per node and example. Ties at the k-th place count as found.

    Raises SiteError where it does not hold every node of the table.
    """
    exact = truth.groupby(NODE, dropna=False, sort=False)["effect"].mean().abs().rename("truth").reset_index()
    joined = table.merge(exact.astype(dict(table.dtypes[NODE])), on=NODE, how="left")
    if missing := int(joined["truth"].isna().sum()):
        raise SiteError(f"the truth must hold all {len(table)} nodes of the table, {missing} are missing")
    k = int(table.attrs["k"])
    return min(1.0, float((joined.loc[joined["rank"] <= table.attrs["n_first"], "truth"] >= joined["truth"].nlargest(k).min()).sum() / k))


def _patches(model: Observable, corrupt: Inputs, names: Sequence[str], by_position: bool) -> list[Edit]:
    """The exact edit of every node."""
    with torch.no_grad(), record(model, names) as there:
        model(*corrupt)
    return patch_sites(model, there, names, positions="each" if by_position else None)


def _estimated(
    model: Observable, clean: Inputs, corrupt: Inputs, metric: Metric, nodes: Sequence[Edit], by_position: bool, by: Screen
) -> Float[Tensor, "nodes"]:
    """The mean estimate of every node."""
    names = list(dict.fromkeys(edit.site for edit in nodes))
    if isinstance(by, FirstOrder):
        table = attribution_patching(model, clean, corrupt, metric, names, by_position=by_position, rule=by)
        if by.gradients == "clean" and bool((table["clean"].abs() <= AT_REST).all()):
            raise SiteError(f'{metric.name} is 0 at the clean run and has no slope there that ranks nodes; screen by FirstOrder(gradients="path")')
        return _means(table["estimate"], len(nodes))
    if by != "bfloat16":
        raise SiteError(f'nodes are screened by a FirstOrder or by "bfloat16", got {by!r}')
    if not isinstance(model, torch.nn.Module):
        raise SiteError(f"a screen in bfloat16 needs a model that can be copied, {type(model).__name__} is no module")
    copy = deepcopy(model).to(torch.bfloat16)
    swept = sweep(copy, clean, _patches(copy, corrupt, names, by_position), metric)
    if not swept.attrs["complete"]:
        raise KeyboardInterrupt
    return _means(swept["effect"], len(nodes))


def _means(rows: pd.Series, n: int) -> Float[Tensor, "nodes"]:
    """The mean over examples of each node."""
    return torch.from_numpy(rows.to_numpy(float).reshape(n, -1).mean(1))

"""Are fits, operations, memory and loss by context what they should be, and does the verdict rest on them alone?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analyses._corpus import Corpus, load_corpus
from analyses._flops import forward_flops
from analyses._length_scaling_measure import forward_pass
from analyses._live_memory import peak_bytes
from analyses._loss_by_context import bins_of, differences_by_context, loss_by_context
from analyses._scaling_fit import bootstrap_fits, fit_quadratic, percentile_interval
from analyses.length_scaling import ANALYSIS
from model import Transformer, TransformerConfig
from probes import Edit, intervene
from probes.metrics import token_losses

CPU = torch.device("cpu")
GROUPED = TransformerConfig(
    n_layers=3,
    d_model=24,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    d_mlp=40,
    d_vocab=50,
    n_ctx=300,
    positions="rotary",
    norm="rms",
    activation="silu",
    gated=True,
    q_bias=False,
    k_bias=False,
    v_bias=False,
    attn_out_bias=False,
    mlp_bias=False,
)
LEARNED = TransformerConfig(n_layers=2, d_model=16, n_heads=4, d_head=4, d_mlp=64, d_vocab=50, n_ctx=300)


def small(config: TransformerConfig = GROUPED) -> Transformer:
    return Transformer(config, generator=torch.Generator().manual_seed(0))


def corpus_of(n_tokens: int) -> Corpus:
    tokens = torch.randint(50, (n_tokens,), generator=torch.Generator().manual_seed(1))
    return Corpus(text="", text_source="made up", prompts=(), prompts_source="none", tokens=tokens)


N = np.array([32.0, 64, 128, 256, 512, 1024])


@pytest.mark.parametrize("truth", [(0.0, 2e-3, 0.0), (0.1, 2e-3, 4e-6), (0.0, 0.0, 3e-6), (5.0, 0.0, 0.0), (0.0, 1e-3, 1e-5)])
def test_planted_coefficients_are_found(truth: tuple[float, float, float]) -> None:
    c, a, b = truth
    fit = fit_quadratic(N, c + a * N + b * N**2)
    assert (fit.c, fit.a, fit.b) == pytest.approx(truth, rel=1e-6, abs=1e-12)
    assert fit.crossover == (pytest.approx(a / b) if b else pytest.approx(float("inf")) if fit.b == 0 else fit.crossover)


def test_the_fit_is_the_best_without_negative_parts() -> None:
    """Against projected gradient descent on the same problem, where a plain least squares would go below 0."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        cost = np.exp(generator.normal(size=6)) * N
        columns = np.stack([np.ones(6), N / 1024, (N / 1024) ** 2], 1) / cost[:, None]
        scale = np.linalg.norm(columns, axis=0)
        matrix, x = columns / scale, np.zeros(3)
        step = 1 / np.linalg.eigvalsh(matrix.T @ matrix).max()
        for _ in range(20000):
            x = np.maximum(0, x - step * matrix.T @ (matrix @ x - 1))
        fit = fit_quadratic(N, cost)
        ours = float(np.sum((fit.parts(N).sum(0) / cost - 1) ** 2))
        assert min(fit.c, fit.a, fit.b) >= 0 and ours <= float(np.sum((matrix @ x - 1) ** 2)) + 1e-6


def test_intervals_hold_the_truth_and_infinity() -> None:
    costs = (0.01 + 1e-3 * N + 2e-6 * N**2)[:, None] * (1 + 0.01 * np.random.default_rng(0).normal(size=(6, 9)))
    fits = bootstrap_fits(N, costs, seed=0)
    low, high = percentile_interval([fit.crossover for fit in fits])
    assert low < 500 < high < 700
    assert percentile_interval([1.0, 2.0, float("inf")]) == (1.0, float("inf"))


def test_mistakes_of_a_fit() -> None:
    with pytest.raises(ValueError, match="at least 3 different lengths, got 2"):
        fit_quadratic(N[:2], N[:2])
    with pytest.raises(ValueError, match="costs above 0, got 0.0"):
        fit_quadratic(N, N * 0)


@pytest.mark.parametrize("config", [GROUPED, LEARNED], ids=["grouped", "learned"])
def test_operations_are_those_that_torch_counts(config: TransformerConfig) -> None:
    model = small(config)
    for n in (1, 7, 64):
        with (
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
            intervene(model, *(Edit(f"blocks.{i}.attn.pattern", lambda p: p) for i in range(config.n_layers))),
        ):
            forward_pass(model, (torch.zeros(1, n, dtype=torch.long),))
        assert counter.get_total_flops() == forward_flops(config, n).total


def test_live_memory_of_known_operations() -> None:
    x = torch.zeros(1000)

    def chain() -> None:
        a = x.view(10, 100).exp()  # 4000 bytes, the view none
        b = a.exp()  # 4000 more
        del a
        b.exp()

    assert peak_bytes(chain, CPU, [x]) == 8000


def test_memory_is_linear_with_the_fused_kernel_and_quadratic_with_patterns() -> None:
    model, lengths = small(), np.array([32.0, 64, 128, 256])

    def peaks() -> np.ndarray:
        return np.array(
            [
                peak_bytes(lambda n=n: forward_pass(model, (torch.zeros(1, int(n), dtype=torch.long),)), CPU, list(model.parameters()))
                for n in lengths
            ],
            dtype=float,
        )

    with torch.no_grad():
        fused = peaks()
        with intervene(model, *(Edit(f"blocks.{i}.attn.pattern", lambda p: p) for i in range(3))):
            explicit = peaks()
        assert (fused == peaks()).all()
    fit = fit_quadratic(lengths, fused)
    assert fit.b * 256**2 < 1e-3 * fused[-1]
    assert fit_quadratic(lengths, explicit).b * 256**2 > 0.5 * explicit[-1]


def test_loss_by_context_is_that_of_a_whole_pass(glasslm: Transformer) -> None:
    corpus = load_corpus(glasslm)
    loss = ANALYSIS(n_chunks=5, length=64, longest=64).measure(glasslm, corpus)["loss"].frame
    chunks = corpus.chunks(5, 64)
    with torch.no_grad():
        expected = token_losses(glasslm(chunks), chunks).double().numpy()  # chunks contexts
    assert list(zip(loss["first"], loss["last"], strict=True)) == [(1, 1), (2, 7), (8, 15), (16, 31), (32, 63)]
    for row in loss.itertuples():
        assert row.loss == pytest.approx(expected[:, row.first - 1 : row.last].mean(), abs=1e-5) and row.n == 5


def test_long_chunks_are_unembedded_in_slices_without_a_seam() -> None:
    model, corpus = small(), corpus_of(900)
    loss = ANALYSIS(n_chunks=3, length=300, shortest=32, longest=32).measure(model, corpus)["loss"].frame
    chunks = corpus.chunks(3, 300)
    with torch.no_grad():
        expected = token_losses(model(chunks), chunks).double().numpy()
    assert loss.iloc[-1]["loss"] == pytest.approx(expected[:, int(loss.iloc[-1]["first"]) - 1 :].mean(), abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 20, 127, 511, 1000])
def test_bins_cover_every_context_once(n: int) -> None:
    assert [c for first, last in bins_of(n) for c in range(first, last + 1)] == list(range(1, n + 1))


def judged(losses: np.ndarray):
    """The verdict on made-up losses, Float[chunks contexts]."""
    tables = ANALYSIS(n_chunks=2, length=32, longest=64).measure(small(), corpus_of(200))
    bins = bins_of(losses.shape[1])
    frames = {"loss": loss_by_context(losses, bins, 0), "differences": differences_by_context(losses, bins, 0)}
    return ANALYSIS().judge({**tables, **{name: dataclasses.replace(tables[name], frame=frame) for name, frame in frames.items()}})


def test_verdicts() -> None:
    noise = np.random.default_rng(0).normal(size=(12, 127)) * 0.3
    falling, contexts = -0.5 * np.log(np.arange(1, 128)), np.arange(1, 128)
    assert judged(5 + falling + noise).status == "pass" and judged(5 + falling + noise).claim.startswith(
        "The loss falls with context, from 4."
    )
    # ln n falls by ln 2 over the last doubling, and 1.2 is added: 0.51, give or take the noise
    rising_again = judged(5 + 2 * falling + noise + 1.2 * (contexts > 63))
    assert rising_again.status == "warn" and "rises again by 0.49 nats" in rising_again.claim
    assert judged(5 - falling + noise).status == "fail"
    assert judged(5 + noise * 3).status == "inconclusive"
    assert judged((5 + falling + noise)[:1]).status == "inconclusive"


def test_nothing_measured_decides() -> None:
    """Status, claim and every deterministic table agree between two runs; times stand in tables marked as measurements."""
    model, corpus = small(), corpus_of(900)
    first, second = (ANALYSIS(n_chunks=3, length=64, longest=128, repeats=4).run(model, corpus) for _ in range(2))
    assert (first.verdict.status, first.verdict.claim) == (second.verdict.status, second.verdict.claim)
    for name, table in first.tables.items():
        if not table.measurement:
            assert table.frame.equals(second.tables[name].frame)
    assert {name for name, table in first.tables.items() if table.measurement} == {"time", "passes", "memory", "fits"}
    stable = {e.name: e.measured for e in second.verdict.evidence}
    assert all(stable[e.name] == e.measured for e in first.verdict.evidence if not e.name.startswith("measured"))
    assert first.tables["memory"].frame.equals(second.tables["memory"].frame)


def test_short_contexts_and_short_texts() -> None:
    tiny = small(dataclasses.replace(LEARNED, n_ctx=20))
    result = ANALYSIS().run(tiny, corpus_of(100))
    assert result.notes["text"].startswith("5 chunks of 20 tokens") and result.notes["lengths"].startswith("none: the context of 20 tokens")
    assert {f.name for f in result.figures} == {"loss-by-context"} and result.tables["time"].frame.empty
    empty = ANALYSIS(longest=64).run(small(), corpus_of(0))
    assert empty.verdict.status == "inconclusive" and {f.name for f in empty.figures} == {"operations", "time", "memory"}


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    ANALYSIS(n_chunks=1, length=8, longest=32).measure(small(), corpus_of(50))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_chunks": 0}, "n_chunks must be at least 1, got 0"),
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"shortest": 0}, "shortest must be at least 1, got 0"),
        ({"longest": 16}, r"longest must be at least 32 \(shortest\), got 16"),
        ({"repeats": 3}, "repeats must be at least 4, got 3"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_parameters_are_checked(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANALYSIS(**values)

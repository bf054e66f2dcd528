"""What makes training efficient on real hardware? Fewer parameters, shorter numbers, more machines: what each keeps and what it costs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import alone, each
from analyses.studies._passes import measured
from analyses.studies._processes import together
from analyses.studies._recurrent import operations_per_token
from analyses.studies._training import BASE, BATCH, LENGTH, RECIPE, bigram, character_model, learn_characters, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import Transformer
from model.training import CausalLM, Exercise, token_loss, train
from model.training.distributed import n_processes, rank, wait
from model.training.loop import accumulate_gradients
from model.training.objectives import Batch
from probes.saved_bytes import saved_bytes
from reports import Bars, Figure, Lines, Series, Table

SMALL = dataclasses.replace(BASE, d_model=32, d_head=8, d_mlp=128)
"""a quarter of the weights in its blocks"""
ARMS = ("fp32", "mixed", "quarter")
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UPDATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 1e-2, 2e-2)
"""|Δw| / |w| of one update"""
GRADIENTS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
"""standard deviations of gradients"""
N_PARTS = 4
N_PROCESSES, N_STEPS = 2, 3
"""that train one model together, and how many of its steps are compared"""
UNTIMED = 3
"""steps before those that are timed"""


@dataclass(frozen=True, kw_only=True)
class Hardware(Study):
    number: ClassVar[int] = 35
    name: ClassVar[str] = "hardware"
    timed: ClassVar[bool] = True
    question: ClassVar[str] = "How is a Transformer made efficient on hardware?"
    popular: ClassVar[str] = "Fewer parameters, mixed precision, parallel and distributed training raise efficiency."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="mixed precision costs no quality", quantity="loss with mixed precision", relation="==", threshold=0.0, margin=0.02, unit="nats"),
        Prediction(says="mixed precision saves memory", quantity="kept for the backward pass, mixed over fp32", relation="<", threshold=0.9),
        Prediction(says="mixed precision takes less time", quantity="time of training, mixed over fp32", relation="<", threshold=1.0),
        Prediction(says="fewer parameters do more with the same compute", quantity="loss of a quarter of the weights at equal compute", relation="<", threshold=-0.02, unit="nats"),
        Prediction(says="and take less time for it", quantity="time of training at equal compute, quarter over whole", relation="<", threshold=1.0),
        Prediction(says="two processes take less time than one", quantity="time per step, two processes over one", relation="<", threshold=1.0),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the model in fp32 beats the bigram", quantity="fp32 minus bigram", relation="<", threshold=0.0, unit="nats"),
        Prediction(says="the two sizes get the same compute", quantity="compute, quarter over whole", relation="==", threshold=1.0, margin=0.02),
        Prediction(says="a batch that is dealt out gives the same gradient, token for token", quantity="gradient error, sums added", relation="<", threshold=1e-4),
        Prediction(says="the mean of uneven parts' means is not that gradient", quantity="gradient error, means averaged", relation=">", threshold=1e-3),
        Prediction(says="two processes compute the gradient of one", quantity="gradient error, two processes", relation="<", threshold=1e-5),
        Prediction(says="and take its steps", quantity="weight error, two processes", relation="<", threshold=1e-5),
    )  # fmt: skip
    method: ClassVar[str] = (
        "Character models read the same windows in fp32, and with products in bf16 while weights stay in fp32 (mixed); a model of half the width, a quarter of the "
        "weights in its blocks, takes so many more steps that the operations of all products are equal, those of attention and of the logits among them; times are CPU seconds of one thread. Kept for the backward pass: bytes that autograd saves in the first step, parameters left out. "
        f"Dealt out: the gradient of one batch of {BATCH} texts of uneven length in {N_PARTS} parts, as sums of losses over the count of all tokens, or as the mean of each "
        "part's mean; ‖g − g_whole‖ / ‖g_whole‖, the largest over seeds for sums. Two processes: each begins with other weights, takes those of the first, and reads "
        "every second of such batches, in float64, through gloo; the gradient and the weights of the third step, unclipped, of either "
        "against those of one process that reads both batches, the largest over seeds. "
        f"Their time: seconds by the clock on the wall per step of {N_PROCESSES * BATCH} texts of {LENGTH} characters, which one process of one thread reads whole and each of two halves, in turn. Beside them what short numbers lose: the share of weights that an update of relative size r "
        "leaves as they were, and of normal gradients that become 0."
    )
    scale: ClassVar[str] = "0.1 M parameters, windows of 32 characters, one core, two for two processes"
    limits: ClassVar[str] = (
        "No arm keeps its weights in bf16: what that would lose is shown of single updates. "
        "Times are this machine's: whether bf16 is faster, and how much a small product loses to what is not arithmetic, depends on the processor. Two processes of one machine "
        "meet in its memory; what a network between machines takes is left out. At equal compute the larger model may win with more of it."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Micikevicius et al. 2018, Mixed Precision Training", "Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training",
        "Kaplan et al. 2020, Scaling Laws for Neural Language Models", "Goyal et al. 2017, Accurate, Large Minibatch SGD",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "n_held_out": 4, "n_rounds": 2, "round_steps": 2},
        "default": {"n_seeds": 3, "steps": 300, "n_held_out": 128, "n_rounds": 5, "round_steps": 50},
        "full": {"n_seeds": 5, "steps": 350, "n_held_out": 600, "n_rounds": 8, "round_steps": 60},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 300
    """updates of the whole model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""
    n_rounds: int = 5
    """how often one process and two are timed in turn"""
    round_steps: int = 50
    """timed steps of a round"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        arms = pd.DataFrame(each(_arm, [(arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in ARMS]))
        parts, processes = pd.DataFrame([_dealt_out(seed) for seed in seeds]), _processes(seeds)
        loss, operations, seconds, steps = (arms.pivot(index="seed", columns="arm", values=value) for value in ("loss", "operations", "seconds", "steps"))
        kept = {mixed: _kept(mixed) for mixed in (False, True)}
        rounding = _rounding(self.seed)
        lost = rounding.set_index(["format", "what", "size"]).lost
        paces = _paces(self.n_rounds, self.round_steps, self.seed)
        pace = paces.pivot(index="round", columns="processes", values="seconds")
        effects = [
            Effect.over_seeds("loss with mixed precision", loss["mixed"] - loss["fp32"], "nats"),
            Effect.exact("kept for the backward pass, mixed over fp32", kept[True] / kept[False]),
            Effect.over_seeds("loss of a quarter of the weights at equal compute", loss["quarter"] - loss["fp32"], "nats"),
            Effect.exact("gradient error, sums added", float(parts.sums.max())),
            Effect.of_ratios("gradient error, means averaged", parts.means),
            Effect.exact("gradient error, two processes", processes.gradient.max()),
            Effect.exact("weight error, two processes", processes.weights.max()),
            Effect.over_seeds("fp32 minus bigram", loss["fp32"] - bigram(n=self.n_held_out), "nats"),
            Effect.exact("compute, quarter over whole", float((operations["quarter"] / operations["fp32"]).mean())),
            measured("time of training, mixed over fp32", seconds["mixed"] / seconds["fp32"]),
            measured("time of training at equal compute, quarter over whole", seconds["quarter"] / seconds["fp32"]),
            measured("time per step, two processes over one", pace[N_PROCESSES] / pace[1]),
            Effect.exact("steps at equal compute, quarter over whole", float((steps["quarter"] / steps["fp32"]).mean())),
            Effect.exact("updates of 0.1 % that bf16 weights lose", lost["bf16", "updates", 1e-3]),
            Effect.exact("updates of 0.4 % that bf16 weights lose", lost["bf16", "updates", 4e-3]),
            Effect.exact("gradients of size 1e-9 that fp16 makes 0", lost["fp16", "gradients", 1e-9]),
            Effect.exact("gradients of size 1e-9 that bf16 makes 0", lost["bf16", "gradients", 1e-9]),
        ]
        clock = arms[["arm", "seed", "seconds"]]
        tables = {
            "arms": _arms_table(arms.drop(columns="seconds")),
            "parts": _parts_table(parts),
            "processes": _processes_table(processes),
            "rounding": _rounding_table(rounding),
            "times": _times_table(clock),
            "paces": _paces_table(paces),
        }
        return effects, tables

    def finding(self, effects: Mapping[str, Effect]) -> str:
        mixed, memory, mixed_time, quarter, quarter_time, pace = (effects[one.quantity] for one in self.predictions)
        fp16, bf16 = (effects[f"gradients of size 1e-9 that {name} makes 0"].estimate for name in ("fp16", "bf16"))
        steps, lost, kept, sums, means, gradient, weights = (
            effects[name].estimate for name in (
                "steps at equal compute, quarter over whole", "updates of 0.1 % that bf16 weights lose", "updates of 0.4 % that bf16 weights lose",
                "gradient error, sums added", "gradient error, means averaged", "gradient error, two processes", "weight error, two processes",
            )
        )  # fmt: skip
        return (
            f"Mixed precision changes the loss by {mixed.estimate:+z.3f} nats, keeps {memory.estimate:.0%} of the bytes for the backward pass and takes {mixed_time.estimate:.2f} times the CPU time on this machine. Its "
            f"weights stay in fp32: bf16 ones lose {lost:.0%} of updates of 0.1 % and {kept:.0%} of those of 0.4 %; of gradients of size 1e-9 fp16 makes {fp16:.0%} zero, bf16 {bf16:.0%}. A quarter of the weights, with {steps:.1f} times "
            f"the steps for equal compute, ends {quarter.estimate:+z.2f} nats from the whole, after {quarter_time.estimate:.2f} times its CPU time. Two processes take {pace.estimate:.2f} [{pace.low:.2f}, {pace.high:.2f}] times as long as one for a step on as many texts; "
            f"their gradient is that of one {_to(gradient)}, and so are their weights after {N_STEPS} steps {_to(weights)}. A batch dealt out gives the same gradient {_to(sums)} if sums are added, and another by {means:.1%} if means of uneven parts are averaged."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        rounding, arms, parts = (tables[name].frame for name in ("rounding", "arms", "parts"))
        updates = rounding[rounding.what == "updates"].pivot(index="size", columns="format", values="lost")
        by = arms.groupby("arm").loss
        names = {"fp32": "fp32", "mixed": "mixed precision", "quarter": "a quarter of the weights, equal compute"}
        return (
            Lines(
                name="updates", title="Updates that weights lose, by their size and the number format",
                caption="Share of normal weights that one update of this relative size leaves as they were, 100,000 draws; about 0.001 is usual.",
                alt=", ".join(f"{kind} {updates[kind].iloc[0]:.2f} at {UPDATES[0]:.0e}, {updates[kind].iloc[-1]:.2f} at {UPDATES[-1]:.0e}" for kind in FORMATS),
                x=updates.index.to_numpy(float), series={kind: Series(y=updates[kind].to_numpy()) for kind in FORMATS}, x_label="|Δw| / |w|",
                y_label="share of updates lost", log_x=True, markers=True,
            ),
            Bars(
                name="loss", title="Held-out loss by number format, and with a quarter of the weights", caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{names[arm]} {by.mean()[arm]:.3f}" for arm in ARMS), labels=[names[arm] for arm in ARMS], values=by.mean()[list(ARMS)].to_numpy(),
                low=by.min()[list(ARMS)].to_numpy(), high=by.max()[list(ARMS)].to_numpy(), unit="nats per character",
            ),
            Lines(
                name="parts", title="How far the gradient of parts is from that of the whole batch",
                caption="Relative error of the gradient of a batch of uneven texts, dealt out in four, against the whole; one point per seed.",
                alt=f"Sums {parts.sums.max():.1e} at most, means {parts.means.min():.1e} at least.", x=parts.seed.to_numpy(float),
                series={"sums added": Series(y=parts.sums.to_numpy()), "means averaged": Series(y=parts.means.to_numpy())}, x_label="seed", y_label="relative error",
                log_y=True, markers=True,
            ),
        )  # fmt: skip


def _arm(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """One model and what it reached; the smaller one is taught as long as the operations of the whole one last."""
    model = character_model(SMALL if arm == "quarter" else BASE, seed)
    if arm == "quarter":
        steps = round(steps * operations_per_token(BASE, LENGTH) / operations_per_token(SMALL, LENGTH))
    recipe = recipe_of(steps, autocast="bfloat16" if arm == "mixed" else None)
    learnt = learn_characters(model, seed=seed, recipe=recipe, n_held_out=n_held_out)
    return {
        "arm": arm, "seed": seed, "loss": learnt.loss, "steps": steps, "n_parameters": learnt.n_parameters, "flops": learnt.flops,
        "operations": 3.0 * operations_per_token(model.config, LENGTH) * BATCH * LENGTH * steps, "seconds": learnt.cpu_seconds,
    }  # fmt: skip


def _kept(mixed: bool) -> int:
    """Bytes that the first step keeps for its backward pass."""
    model, exercise = character_model(BASE, 0), CausalLM()(windows(1)[0], torch.Generator())

    def run() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits = model(*exercise.inputs)
        return token_loss(logits, exercise)

    return saved_bytes(run, without=model.parameters())


def _dealt_out(seed: int) -> dict[str, float]:
    """How far the gradient of a batch of uneven texts is from that of its parts."""
    model, generator = character_model(BASE, seed), torch.Generator().manual_seed(seed)
    whole = CausalLM()(_uneven(1, generator, seed)[0], generator)
    parts = [
        Exercise((read, mask), answers, counted)
        for read, mask, answers, counted in zip(*(x.chunk(N_PARTS) for x in (*whole.inputs, whole.answers, whole.counted)), strict=True)
    ]
    exact = _gradient(model, [whole])
    means = torch.stack([_gradient(model, [part]) for part in parts]).mean(0)
    return {"seed": seed, "sums": _error(_gradient(model, parts), exact), "means": _error(means, exact)}


def _uneven(n: int, generator: torch.Generator, seed: int) -> list[Batch]:
    """Batches of texts of uneven length."""
    lengths = [torch.randint(4, LENGTH + 1, (BATCH, 1), generator=generator) for _ in range(n)]
    return [(tokens, torch.arange(LENGTH) < long) for (tokens, _), long in zip(windows(n, seed=seed), lengths, strict=True)]


def _processes(seeds: Sequence[int]) -> pd.DataFrame:
    """How far the processes that train together end from a single one: a row for each seed and process."""
    single, rows = alone(_taught, (seeds,)), []
    for i, found in enumerate(together(_taught, N_PROCESSES, seeds)):
        for seed, (gradient, weights), (of_one, weights_of_one) in zip(seeds, found, single, strict=True):
            rows.append({"seed": seed, "process": i, "gradient": _error(gradient, of_one), "weights": _error(weights, weights_of_one)})
    return pd.DataFrame(rows)


def _taught(seeds: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """The last gradient and weights after a few steps, of one of the processes or of one that reads the batches of all of them."""
    found = []
    for seed in seeds:
        model = character_model(BASE, seed + rank()).double()  # each begins elsewhere: the weights of process 0 are shared
        recipe = recipe_of(N_STEPS, accumulate=N_PROCESSES // n_processes(), clip_norm=None, seed=seed)
        train(model, _uneven(N_PROCESSES * N_STEPS, torch.Generator().manual_seed(seed), seed), CausalLM(), recipe)
        found.append((torch.cat([p.grad.flatten() for p in model.parameters()]), torch.cat([p.detach().flatten() for p in model.parameters()])))
    return found


def _paces(n_rounds: int, steps: int, seed: int) -> pd.DataFrame:
    """Seconds per step of two processes that read half of the texts each, and of one that reads all, in turn."""
    rows = []
    for i in range(n_rounds):
        rows.append({"round": i, "processes": N_PROCESSES, "seconds": max(together(_pace, N_PROCESSES, steps, seed))})
        rows.append({"round": i, "processes": 1, "seconds": alone(_pace, (steps, seed))})
    return pd.DataFrame(rows)


def _pace(steps: int, seed: int) -> float:
    """Seconds per step by the clock on the wall, after some that are not timed."""
    model, texts = character_model(BASE, seed), N_PROCESSES * BATCH // n_processes()
    for n in (UNTIMED, steps):
        batches = list(windows(n * n_processes(), batch=texts, seed=seed))
        wait()
        began = time.perf_counter()
        train(model, batches, CausalLM(), recipe_of(n))
        wait()
    return (time.perf_counter() - began) / steps


def _gradient(model: Transformer, exercises: list[Exercise]) -> Tensor:
    accumulate_gradients(model, exercises, RECIPE, 1)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double()


def _to(error: float) -> str:
    return f"to {error:.0e}" if error else "exactly"


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def _rounding(seed: int, n: int = 100_000) -> pd.DataFrame:
    """Which updates leave a weight as it was, and which gradients become 0, in each format."""
    x, rows = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), []
    for name, dtype in FORMATS.items():
        weight = (0.02 * x).to(dtype)
        for size in UPDATES:
            moved = weight - (size * weight.double()).to(dtype)
            rows.append({"format": name, "what": "updates", "size": size, "lost": float((moved == weight).double().mean())})
        for size in GRADIENTS:
            rows.append({"format": name, "what": "gradients", "size": size, "lost": float(((size * x).to(dtype) == 0).double().mean())})
    return pd.DataFrame(rows)


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", arm=("", "what was changed"), seed=("", "of weights and data"), loss=("nats per character", "on held-out prose"), steps=("", "updates"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"), operations=("FLOP", "the same with attention's own products"),
    )  # fmt: skip


def _times_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "How long each training took here.",
        measurement=True,
        arm=("", "what was changed"),
        seed=("", "of weights and data"),
        seconds=("s", "CPU time of one thread"),
    )


def _paces_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"How long a step on {N_PROCESSES * BATCH} texts took here.", measurement=True, round=("", "counted from 0"),
        processes=("", "that share the texts, one thread each"), seconds=("s", "by the clock on the wall, per step"),
    )  # fmt: skip


def _parts_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "One batch of uneven texts, dealt out.", seed=("", "of weights and data"), sums=("1", "relative error of the gradient, sums of losses over the count of all tokens"),
        means=("1", "the same, mean of each part's mean"),
    )  # fmt: skip


def _processes_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"What each of {N_PROCESSES} processes that train together has after {N_STEPS} steps, against one that reads the batches of all.",
        seed=("", "of weights and data"), process=("", "its rank"), gradient=("1", "relative error of the last gradient"), weights=("1", "relative error of the weights"),
    )  # fmt: skip


def _rounding_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "What short numbers lose.", format=("", "of the numbers"), what=("", "updates that leave a weight as it was, or gradients that become 0"),
        size=("1", "|Δw| / |w|, or standard deviation of the gradients"), lost=("1", "share that is lost"),
    )  # fmt: skip


STUDY = Hardware

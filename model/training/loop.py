"""How does a model learn? Read batches, sum gradients, clip, step; a table says what happened in every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.checkpoint import Model
from model.training.checkpoints import Row, holds_checkpoint, read_checkpoint, write_checkpoint
from model.training.distributed import average_buffers, n_processes, rank, share_weights, sum_gradients, total, wait
from model.training.layers import decayed, norms, update_ratios
from model.training.objectives import Batch, Exercise, Objective, token_loss
from model.training.randomness import dropout_from, generator_of, order
from model.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd


def train(
    model: Model, batches: Sequence[Batch], objective: Objective, recipe: Recipe, *, validation: Sequence[Batch] = (),
    folder: str | Path | None = None, resume: bool = False, until: int | None = None,
) -> pd.DataFrame:
    """Train the parameters that ask for gradients, in place, and say what happened in each step.

    One row per step: `step`, `loss` in nats per token, `learning_rate`, `gradient_norm` before clipping, the same for each
    layer (`gradient_norm/blocks.0`), ‖Δθ‖/‖θ‖ for each layer (`update_ratio/blocks.0`); with `validation` batches also
    `validation_loss`, without dropout and label smoothing, NaN at steps that were not evaluated (`evaluate_every`, and the recipe's last).

    Batches are read in turn, again and again; a tuple of tensors each, as `model.tokenize` returns it. Checkpoints go to
    `folder`; with `resume` training goes on from the one that is there, or begins where there is none, and gives the same
    weights to the bit as if it had not been interrupted. `until` ends it behind an earlier step than the recipe's last. The
    model is left with its last weights, in the mode (training or evaluation) that it came in.

    Raises ValueError for no batches, no parameter that asks for gradients, parameters in half precision, patience without
    validation, a folder that holds a checkpoint which is not to be resumed, one that does not fit (`read_checkpoint`), and a
    step without any token to predict; FloatingPointError for a loss or gradient that is not finite.
    """
    import pandas as pd

    folder = None if folder is None else Path(folder)
    _check(model, batches, recipe, validation, folder, resume)
    optimizer, rows, mode = make_optimizer(model, recipe), [], model.training
    if folder is not None and resume and holds_checkpoint(folder):
        rows = read_checkpoint(folder, model, optimizer, recipe)
    share_weights(model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    last = recipe.steps if until is None else min(until, recipe.steps)
    model.train()
    try:
        for step in range(len(rows) + 1, last + 1):
            if _ended_early(rows, recipe.patience):
                break
            row = _step(model, trained, optimizer, _exercises(model, batches, objective, recipe, step), recipe, step)
            if validation:
                due = step == recipe.steps or (recipe.evaluate_every is not None and step % recipe.evaluate_every == 0)
                row["validation_loss"] = evaluate(model, validation, objective, recipe) if due else math.nan
            rows.append(row)
            if folder is not None and recipe.checkpoint_every is not None and step % recipe.checkpoint_every == 0:
                _keep(folder, model, optimizer, recipe, rows)
        if folder is not None:
            _keep(folder, model, optimizer, recipe, rows)
    finally:
        model.train(mode)
    return pd.DataFrame(rows)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW in two groups: matrices, which decay, and biases, gains and embeddings, which do not."""
    pulled = decayed(model)
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name in pulled].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[decays], "weight_decay": recipe.weight_decay if decays else 0.0} for decays in (True, False) if groups[decays]],
        lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True,
    )


@torch.no_grad()
def evaluate(model: Model, batches: Sequence[Batch], objective: Objective, recipe: Recipe) -> float:
    """Nats per token over all batches, in evaluation mode; the same tokens are masked every time.

    Raises ValueError if there is no token to predict.
    """
    mode, sums = model.training, torch.zeros(2, dtype=torch.float64, device=model.device)  # nats, tokens
    model.eval()
    try:
        for i in range(rank(), len(batches), n_processes()):
            exercise = objective(_moved(batches[i], model.device), generator_of(recipe.seed, "evaluation", i))
            with _autocast(model, recipe):
                logits = model(*exercise.inputs)
            sums += torch.stack((token_loss(logits, exercise).double(), exercise.counted.sum()))
    finally:
        model.train(mode)
    loss, n = total(sums).tolist()
    if n == 0:
        raise ValueError(f"there must be at least one token to predict, got none in {len(batches)} batches for validation")
    return loss / n


def _exercises(model: Model, batches: Sequence[Batch], objective: Objective, recipe: Recipe, step: int) -> list[Exercise]:
    """What this process reads in a step: batches are dealt out in turn to the processes."""
    exercises, orders, n = [], {}, len(batches)
    generator = generator_of(recipe.seed, "objective", step, rank())
    for i in range(recipe.accumulate):
        epoch, place = divmod(((step - 1) * recipe.accumulate + i) * n_processes() + rank(), n)
        if recipe.shuffle and epoch not in orders:
            orders[epoch] = order(n, recipe.seed, epoch)
        batch = batches[orders[epoch][place] if recipe.shuffle else place]
        exercises.append(objective(_moved(batch, model.device), generator))
    return exercises


def _step(
    model: Model, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, exercises: list[Exercise], recipe: Recipe, step: int
) -> Row:
    """One update: the gradient of the mean over all tokens that count, of all exercises of all processes."""
    loss = accumulate_gradients(model, exercises, recipe, step)
    gradients = norms({name: parameter.grad for name, parameter in trained.items()})
    norm = math.hypot(*gradients.values())
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(
            f"loss and gradient must be finite, got loss={loss}, gradient_norm={norm} at step {step}; "
            f"the weights are those of step {step - 1}"
        )
    if recipe.clip_norm is not None and norm > recipe.clip_norm:
        for parameter in trained.values():
            parameter.grad.mul_(recipe.clip_norm / norm)
    learning_rate = recipe.learning_rate_at(step)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer.step()
    average_buffers(model)
    ratios = update_ratios(before, trained)
    return {
        "step": step, "loss": loss, "learning_rate": learning_rate, "gradient_norm": norm,
        **{f"gradient_norm/{layer}": value for layer, value in gradients.items()},
        **{f"update_ratio/{layer}": value for layer, value in ratios.items()},
    }


def accumulate_gradients(model: Model, exercises: Sequence[Exercise], recipe: Recipe, step: int) -> float:
    """Set the gradients to those of the mean loss over all tokens of all exercises of all processes; returns that loss.

    A long exercise weighs more than a short one: every token weighs the same. Raises ValueError if no token counts.
    """
    counts = torch.tensor([sum(exercise.n_tokens for exercise in exercises)], dtype=torch.float64, device=model.device)
    n = float(total(counts))
    if n == 0:
        raise ValueError(f"there must be at least one token to predict, got none in {len(exercises)} batches of step {step}")
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = None
    summed = torch.zeros(1, dtype=torch.float64, device=model.device)
    with dropout_from(recipe.seed, "dropout", step, rank()):
        for exercise in exercises:
            with _autocast(model, recipe):
                logits = model(*exercise.inputs)
            loss = token_loss(logits, exercise, recipe.label_smoothing)
            (loss / n).backward()
            summed += loss.detach()
    sum_gradients(parameter for parameter in parameters if parameter.requires_grad)
    return float(total(summed)) / n


def _keep(folder: Path, model: Model, optimizer: torch.optim.Optimizer, recipe: Recipe, rows: list[Row]) -> None:
    """All processes are in the same state: one of them writes it down."""
    if rank() == 0:
        write_checkpoint(folder, model, optimizer, recipe, rows)
    wait()


def _ended_early(rows: list[Row], patience: int | None) -> bool:
    """Have the last `patience` evaluations all been worse than the best before them, or only as good?"""
    losses = [row["validation_loss"] for row in rows if not math.isnan(row.get("validation_loss", math.nan))]
    return patience is not None and bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def _autocast(model: Model, recipe: Recipe) -> torch.autocast:
    dtype = None if recipe.autocast is None else getattr(torch, recipe.autocast)
    return torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return tuple(None if tensor is None else tensor.to(device) for tensor in batch)


def _check(
    model: Model, batches: Sequence[Batch], recipe: Recipe, validation: Sequence[Batch], folder: Path | None, resume: bool
) -> None:
    if isinstance(batches, Tensor) or not len(batches):
        raise ValueError(f"batches must be a list of at least one tuple of tensors, got {type(batches).__name__} of length {len(batches)}")
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter asks for gradients, so there is nothing to train; call model.requires_grad_(True)")
    for name, parameter in trained:
        if parameter.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"parameters are trained in torch.float32, where small updates are not rounded away, got {name} in {parameter.dtype}; "
                "call model.float(), and set autocast='bfloat16' in the recipe"
            )
    if recipe.patience is not None and not validation:
        raise ValueError(f"patience counts evaluations, so there must be validation batches, got patience={recipe.patience} and none")
    if resume and folder is None:
        raise ValueError("a run is resumed from a folder, got resume=True, folder=None")
    if folder is not None and not resume and holds_checkpoint(folder):
        raise ValueError(f"{folder} holds a checkpoint already; go on from it with resume=True, or choose another folder")

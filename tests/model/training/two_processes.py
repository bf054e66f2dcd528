"""What does one of several processes do? Train on its share of the batches, and keep what it ended with: run by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.training import CausalLM, Recipe, joined, train
from model.training.distributed import rank
from model.training.loop import accumulate_gradients
from tests.model.training.samples import decoder, ragged

RECIPE = Recipe(steps=3, learning_rate=1e-2, decay="none", shuffle=False)


def main(folder: Path) -> None:
    with joined("gloo"):
        model = decoder().double()
        exercise = CausalLM()(ragged(2)[rank()], torch.Generator())
        loss = accumulate_gradients(model, [exercise], RECIPE, 1)
        found = {f"gradient/{name}": parameter.grad for name, parameter in model.named_parameters()}
        found["loss"] = torch.tensor(loss, dtype=torch.float64)
        trained = decoder(seed=rank()).double()  # each begins elsewhere; the weights of process 0 are shared
        table = train(trained, ragged(4), CausalLM(), RECIPE, validation=ragged(3, seed=8), folder=folder / "checkpoint")
        found |= {f"weight/{name}": parameter.detach() for name, parameter in trained.named_parameters()}
        found["losses"] = torch.tensor(table["loss"].to_numpy())
        found["validation"] = torch.tensor(table["validation_loss"].iloc[-1])
        save_file(found, folder / f"process-{rank()}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

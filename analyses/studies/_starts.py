"""How do the weights start? As in the first Transformer: Glorot's matrices, and embeddings of variance 1/d that are multiplied by √d.

The studies' BASE starts all matrices at a standard deviation of 0.02 (Radford et al. 2019), at which a block of width 64 adds next to
nothing. Questions about norms, residual connections and warm-up depend on what a block adds, so they start as the paper did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from analyses.studies._training import BASE
from model import Transformer, TransformerConfig

PAPER = dataclasses.replace(BASE, embed_scale=BASE.d_model**0.5, positions="sinusoidal")
"""The character model of the studies with the paper's scale of the embedding and its positions; an arm is `dataclasses.replace(PAPER, …)`."""
SINUSOIDS = 0.5**0.5
"""root mean square of a sinusoidal position: half sines, half cosines"""


def started_as_in_the_paper(config: TransformerConfig, seed: int) -> Transformer:
    """An untrained model: matrices of the blocks uniform in ± √(6 / (fan_in + fan_out)) (Glorot & Bengio 2010), embeddings N(0, 1/d_model).

    Learned positions start as large as sinusoids are: at 0.02 they would be lost beside embeddings of size 1.

    Every kind of weight draws from a generator of its own and block by block, so that arms of one seed agree in all that they
    have in common: a deeper one has the blocks of a shallower one below its own.

    >>> small, deep = (started_as_in_the_paper(dataclasses.replace(PAPER, n_layers=n), seed=0) for n in (1, 2))
    >>> torch.equal(small.blocks[0].attn.W_Q.weight, deep.blocks[0].attn.W_Q.weight), round(small.embedding.weight.var().item() * 64, 1)
    (True, 1.0)
    """
    model = Transformer(config, generator=torch.Generator().manual_seed(seed))
    generators = {name: torch.Generator().manual_seed(seed) for name in ("embedding", "positions", "attn", "mlp")}
    with torch.no_grad():
        model.embedding.weight.normal_(std=config.d_model**-0.5, generator=generators["embedding"])
        if model.position_embedding is not None:
            model.position_embedding.weight.normal_(std=SINUSOIDS, generator=generators["positions"])
    for block in model.blocks:
        for name in ("attn", "mlp"):
            for parameter in (getattr(block, name) or nn.Module()).parameters():
                if parameter.dim() == 2:
                    nn.init.xavier_uniform_(parameter, generator=generators[name])
    return model


START_OF_SCORES: Mapping[str, Callable[..., Tensor]] = {
    "Glorot": nn.init.xavier_uniform_,
    "nn.Linear": partial(nn.init.kaiming_uniform_, a=5**0.5),
    "N(0, 0.02)": partial(nn.init.normal_, std=0.02),
}
"""how W_Q and W_K start: uniform in ± √(6 / (fan_in + fan_out)); as torch starts a linear map, uniform in ± 1/√fan_in; as GPT-2 (Radford et al. 2019)"""


def start_scores(model: Transformer, start: str, seed: int) -> None:
    """Draw W_Q and W_K of every block anew, by one of `START_OF_SCORES`; all else stays.

    >>> model = Transformer(BASE)
    >>> start_scores(model, "nn.Linear", seed=0)
    >>> round(model.blocks[1].attn.W_K.weight.max().item() * 64**0.5, 2)
    1.0
    """
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for projection in (block.attn.W_Q, block.attn.W_K):
            START_OF_SCORES[start](projection.weight, generator=generator)

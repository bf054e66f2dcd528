"""How do the weights start? As in the first Transformer: Glorot's matrices, and embeddings of variance 1/d that are multiplied by √d.

The studies' BASE starts all matrices at a standard deviation of 0.02 (Radford et al. 2019), at which a block of width 64 adds next to
nothing. Questions about norms, residual connections and warm-up depend on what a block adds, so they start as the paper did.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from analyses.studies._training import BASE
from model import Transformer, TransformerConfig

PAPER = dataclasses.replace(BASE, embed_scale=BASE.d_model**0.5)
"""The character model of the studies with the paper's scale of the embedding; an arm is `dataclasses.replace(PAPER, …)`."""


def started_as_in_the_paper(config: TransformerConfig, seed: int) -> Transformer:
    """An untrained model: matrices of the blocks uniform in ± √(6 / (fan_in + fan_out)) (Glorot & Bengio 2010), embeddings N(0, 1/d_model).

    Every kind of weight draws from a generator of its own and block by block, so that arms of one seed agree in all that they
    have in common: a deeper one has the blocks of a shallower one below its own.

    >>> small, deep = (started_as_in_the_paper(dataclasses.replace(PAPER, n_layers=n), seed=0) for n in (1, 2))
    >>> torch.equal(small.blocks[0].attn.W_Q.weight, deep.blocks[0].attn.W_Q.weight), round(small.embedding.weight.var().item() * 64, 1)
    (True, 1.0)
    """
    model = Transformer(config, generator=torch.Generator().manual_seed(seed))
    generators = {name: torch.Generator().manual_seed(seed) for name in ("embedding", "attn", "mlp")}
    with torch.no_grad():
        model.embedding.weight.normal_(std=config.d_model**-0.5, generator=generators["embedding"])
    for block in model.blocks:
        for name in ("attn", "mlp"):
            for parameter in (getattr(block, name) or nn.Module()).parameters():
                if parameter.dim() == 2:
                    nn.init.xavier_uniform_(parameter, generator=generators[name])
    return model

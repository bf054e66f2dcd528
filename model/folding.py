"""What if norms had no gains? A model with the same logits, in which the matrices that read a norm hold its gain and its bias."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from model.checkpoint import Config, Model, assemble, plain_weights, shapes
from model.config import EncoderDecoderConfig, TransformerConfig
from model.encoder_decoder import EncoderDecoder
from model.norms import NoNorm
from model.stack import Stack

STEP = "folded the gains and biases of norms into the matrices that read them"

Reading = tuple[nn.Module, tuple[nn.Linear, ...]]
"""a norm, and every matrix that reads it"""


@torch.no_grad()
def fold_norms(model: Model) -> Model:
    """A copy with the same logits, whose norms before attention, feed-forward network and head have gain 1 and bias 0.

    y = gain · normalized + bias is read by matrices only, so W y + b = (W diag(gain)) normalized + (b + W bias): every
    `normalized` stays what it is, and W_Q, W_K, W_V, W_in, W_gate and W_U say by themselves what a head or a unit reads
    (Elhage et al. 2021, "Handling layer normalization"). Matrices get the biases that they need; a tied unembedding becomes
    a matrix of its own. Norms whose value no matrix reads stay as they are: those of embeddings, queries and keys, those
    behind a sub-layer (sandwich, output), and the last one of a model without a head, whose output it is.

    Raises ValueError for post-norm models, whose residual stream carries the gains, and for models without norms.

    >>> from model import Transformer, TransformerConfig
    >>> config = TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5, q_bias=False)
    >>> model, tokens = Transformer(config, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 2, 3]])
    >>> _ = model.blocks[0].ln1.gain.data.mul_(3.0)
    >>> folded = fold_norms(model)
    >>> torch.allclose(folded(tokens), model(tokens), atol=1e-5), folded.blocks[0].ln1.gain.max().item()
    (True, 1.0)
    """
    config = folded_config(model.config)
    old = plain_weights(model)
    if model.unembed is not None:
        old["unembed.unembedding.weight"] = model.unembed.unembedding.weight.detach()
    weights = {}
    for name, shape in shapes(config).items():
        new = name not in old and name.endswith(".bias")
        weights[name] = torch.zeros(shape, dtype=model.dtype, device=model.device) if new else old[name].clone()
    folded = assemble(config, weights)
    for norm, matrices in _readings(folded):
        _fold(norm, matrices)
    folded.source, folded.tokenizer = model.source.then(STEP), model.tokenizer
    if isinstance(model, EncoderDecoder):
        folded.target_tokenizer = model.target_tokenizer
    return folded.requires_grad_(False)


def folded_config(config: Config) -> Config:
    """The config of the folded model: with the biases that folding needs, and an unembedding of its own.

    Raises ValueError as `fold_norms` does.
    """
    if isinstance(config, TransformerConfig):
        return _folded_stack(config)
    if not isinstance(config, EncoderDecoderConfig):
        raise ValueError(f"there are no gains to fold: the model is no Transformer (family={config.family!r})")
    encoder, decoder = config.encoder, config.decoder
    if decoder.shared_qk and _has_norm(encoder) and encoder.final_norm:
        raise ValueError("one matrix makes queries and keys of cross-attention (shared_qk=True), and cannot hold the gains of two norms")
    from_encoder = encoder.final_norm and _adds_bias(encoder)
    return replace(config, encoder=_folded_stack(encoder), decoder=_folded_stack(decoder, from_encoder=from_encoder))


def _folded_stack(config: TransformerConfig, *, from_encoder: bool = False) -> TransformerConfig:
    if config.norm_place == "post":
        raise ValueError("the gains of a post-norm model cannot be folded: the residual stream itself carries them (norm_place='post')")
    if not _has_norm(config):
        raise ValueError("there are no gains to fold: the model has no norms (norm='none')")
    biased, before = _adds_bias(config), config.norm_place in ("pre", "sandwich")
    read = {}
    if biased and before:
        read = dict.fromkeys(("q_bias", "k_bias", "v_bias", "mlp_bias"), True)
    if from_encoder:
        read |= dict.fromkeys(("k_bias", "v_bias"), True)
    if config.head == "mlm" or (config.head == "lm" and config.final_norm):
        read |= dict(tied_embeddings=False, unembed_bias=config.unembed_bias or biased)
    return replace(config, **read)


def _has_norm(config: TransformerConfig) -> bool:
    return config.norm != "none"


def _adds_bias(config: TransformerConfig) -> bool:
    return config.norm in ("layer", "batch") and config.norm_bias


def _readings(model: Model) -> Iterator[Reading]:
    """Every norm that matrices alone read, and those matrices."""
    last = model
    if isinstance(model, EncoderDecoder):
        last = model.decoder
        yield from _in_blocks(model.encoder)
        yield _read(model.encoder.ln_final, *(m for block in last.blocks for m in (block.cross_attn.W_K, block.cross_attn.W_V)))
    yield from _in_blocks(last)
    if model.unembed is not None and model.unembed.transform is None:
        yield _read(last.ln_final, model.unembed.unembedding)
    elif model.unembed is not None:
        yield _read(last.ln_final, model.unembed.transform.dense)
        yield _read(model.unembed.transform.ln, model.unembed.unembedding)


def _in_blocks(stack: Stack) -> Iterator[Reading]:
    if stack.config.norm_place == "output":
        return
    for block in stack.blocks:
        attention, mlp = (block.attn.W_Q, block.attn.W_K, block.attn.W_V), () if block.mlp is None else (block.mlp.W_in, block.mlp.W_gate)
        if stack.config.parallel_shared_norm:
            yield _read(block.ln1, *attention, *mlp)
            continue
        yield _read(block.ln1, *attention)
        if block.cross_attn is not None:
            yield _read(block.ln_cross, block.cross_attn.W_Q)
        if mlp:
            yield _read(block.ln2, *mlp)


def _read(norm: nn.Module, *matrices: nn.Linear | None) -> Reading:
    return norm, tuple(matrix for matrix in matrices if matrix is not None)


def _fold(norm: nn.Module, matrices: tuple[nn.Linear, ...]) -> None:
    """W ← W diag(gain), b ← b + W bias, in fp64; then gain 1 and bias 0."""
    if isinstance(norm, NoNorm):
        return
    offset = getattr(norm, "gain_offset", 0.0)
    for matrix in matrices:
        weight = matrix.weight.double()  # out d_model
        if norm.bias is not None:
            matrix.bias.copy_(matrix.bias.double() + weight @ norm.bias.double())
        matrix.weight.copy_(weight * (norm.gain.double() + offset))
    norm.gain.fill_(1.0 - offset)
    if norm.bias is not None:
        norm.bias.zero_()

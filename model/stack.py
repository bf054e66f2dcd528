"""What do encoder and decoder have in common? Tokens become vectors, blocks act on them, a norm ends it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.block import Block
from model.config import TransformerConfig
from model.context import Context, CrossSource, KeyValueCache
from model.inputs import check_inputs, check_segments
from model.masks import attention_mask
from model.norms import NoNorm, make_norm
from model.places import Places, pick
from model.positions import count_positions, sinusoids
from model.relative import BucketBias, Distances, alibi, score_bias
from model.rotary import rotation
from model.sites import Site
from model.weights import BIASES, MATRICES, StackWeights, forwarded


@dataclass(frozen=True)
class State:
    """A forward pass between two blocks: the residual stream, and what all blocks share."""

    resid: Float[Tensor, "batch pos d_model"]
    context: Context

    def repeat(self, n: int) -> State:
        """n copies of the batch, one after another: each can then be edited on its own."""
        return State(self.resid.repeat(n, 1, 1), self.context.repeat(n))

    def at(self, places: Places) -> State:
        """The same at some places only; the others are there as keys if the context's cache holds them."""
        return State(pick(self.resid, places), self.context.at(places))


class Stack(nn.Module):
    """Embeddings, blocks and final norm; `cross` gives every block a cross-attention."""

    def __init__(self, config: TransformerConfig, *, cross: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.d_vocab, config.d_model)
        self.embed = Site("embed")
        learned, sinusoidal = config.positions == "learned", config.positions == "sinusoidal"
        self.position_embedding = nn.Embedding(config.n_ctx + config.position_offset, config.d_model) if learned else None
        self.pos_embed = Site("pos_embed") if learned or sinusoidal else None
        self.segment_embedding = nn.Embedding(config.n_segments, config.d_model) if config.n_segments else None
        self.segment_embed = Site("segment_embed") if config.n_segments else None
        self.position_bias = BucketBias(config) if config.positions == "t5" else None
        self.ln_embed = make_norm(config) if config.embed_norm else NoNorm()
        self.blocks = nn.ModuleList(Block(config, i, cross=cross) for i in range(config.n_layers))
        self.ln_final = make_norm(config) if config.final_norm else NoNorm()

    W_E, W_pos, W_U, W_Q, W_K, W_V, W_O, W_in, W_gate, W_out = map(forwarded, MATRICES)
    b_U, b_Q, b_K, b_V, b_O, b_in, b_gate, b_out = map(forwarded, BIASES)

    @property
    def weights(self) -> StackWeights:
        """Views of the matrices and biases by their usual names: what is written into them, the model has."""
        return StackWeights(self)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the parameters."""
        return self.embedding.weight.dtype

    def begin(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, *, segments: Int[Tensor, "batch pos"] | None = None,
        source: CrossSource | None = None, cache: KeyValueCache | None = None,
    ) -> State:
        """The residual stream that enters block 0. With a cache, these tokens follow those that it holds."""
        config = self.config
        n_read, read = (0, None) if cache is None else (cache.n_read, cache.mask)
        mask = check_inputs(tokens, mask, d_vocab=config.d_vocab, n_ctx=config.n_ctx, n_read=n_read, read=read)
        if cache is not None:
            mask = _remember(cache, tokens, mask)
        counted = count_positions(tokens if not n_read else tokens.new_zeros(len(tokens), n_read + tokens.shape[1]), mask)
        positions = counted[:, n_read:]  # rows pos
        resid = self._embedded(tokens, positions, segments)
        real = None if mask is None else mask[:, n_read:]
        return State(resid, self._context(positions, counted, mask, real, resid.dtype, source, cache))

    def step(self, state: State, i: int) -> State:
        """Block i."""
        return replace(state, resid=self.blocks[i](state.resid, state.context))

    def run(self, state: State) -> Float[Tensor, "batch pos d_model"]:
        """All blocks and the final norm."""
        for i in range(self.config.n_layers):
            state = self.step(state, i)
        return self.ln_final(state.resid, state.context.real)

    def _embedded(self, tokens: Tensor, positions: Tensor, segments: Tensor | None) -> Float[Tensor, "batch pos d_model"]:
        words = self.embedding(tokens)
        resid = self.embed(words * self.config.embed_scale if self.config.embed_scale != 1.0 else words)  # batch pos d_model
        if self.pos_embed is not None:
            resid = resid + self.pos_embed(self._positions(positions, resid.dtype).expand_as(resid))
        if self.segment_embedding is not None:
            segments = torch.zeros_like(tokens) if segments is None else check_segments(segments, tokens, self.config.n_segments)
            resid = resid + self.segment_embed(self.segment_embedding(segments))
        elif segments is not None:
            raise ValueError("this model has no segment embeddings; leave segments out")
        return F.dropout(self.ln_embed(resid), self.config.dropout.embed, self.training)

    def _positions(self, positions: Int[Tensor, "rows pos"], dtype: torch.dtype) -> Float[Tensor, "rows pos d_model"]:
        if self.position_embedding is None:
            return sinusoids(positions, self.config.d_model).to(dtype)
        return self.position_embedding(positions + self.config.position_offset)

    def _context(
        self, positions: Tensor, keys: Tensor, mask: Tensor | None, real: Tensor | None, dtype: torch.dtype,
        source: CrossSource | None, cache: KeyValueCache | None,
    ) -> Context:
        config = self.config
        layers = range(config.n_layers)
        spans = {config.span_of(i) for i in layers}
        masks = {span: attention_mask(positions, keys, mask, causal=config.causal, span=span) for span in spans}
        rotations, bias, distances = {}, None, Distances(positions, keys)
        if config.positions == "rotary":
            rotations = {choice: rotation(positions, choice, config.d_head, dtype) for choice in {config.rotary_of(i) for i in layers}}
        if config.positions == "alibi":
            bias = score_bias(lambda distance: alibi(distance, config.n_heads).to(dtype), distances, config.n_heads)
        if self.position_bias is not None:
            bias = score_bias(self.position_bias, distances, config.n_heads)
        return Context(masks, rotations, bias, distances if config.positions == "shaw" else None, real, source, cache)


def step_in_stack(site: str, n_layers: int) -> int:
    """The block that a site of one stack belongs to: −1 before block 0, `n_layers` behind the last.

    >>> step_in_stack("embed", 4), step_in_stack("blocks.3.attn.z", 4), step_in_stack("ln_final.scale", 4)
    (-1, 3, 4)
    """
    part, _, rest = site.partition(".")
    if part == "blocks":
        return int(rest.partition(".")[0])
    return n_layers if part in ("ln_final", "unembed", "logits") else -1


def heads_in_stack(site: str, config: TransformerConfig) -> int:
    """How many heads a site of one stack has."""
    return config.n_kv_heads if site.rpartition(".")[2] in ("k", "v", "rot_k") else config.n_heads


def _remember(cache: KeyValueCache, tokens: Tensor, mask: Tensor | None) -> Tensor | None:
    """Count these tokens as read; the mask of everything read, None where all of it is real."""
    if mask is not None or cache.mask is not None:
        before = torch.ones(len(tokens), cache.n_read, dtype=torch.bool, device=tokens.device) if cache.mask is None else cache.mask
        now = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        cache.mask = torch.cat((before, now), dim=1)
    cache.n_read += tokens.shape[1]
    return cache.mask


def initialise(module: nn.Module, generator: torch.Generator | None, std: float = 0.02) -> None:
    """Normal weights of standard deviation 0.02, zero biases; gains stay 1 (Radford et al. 2019)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std, generator=generator)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for name, parameter in module.named_parameters():
        if name.endswith("w_score"):
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)

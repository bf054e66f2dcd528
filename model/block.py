"""One layer: attention and a feed-forward network, each reading a normed residual stream and adding to it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from model.attention import Attention, Context
from model.config import TransformerConfig
from model.feedforward import FeedForward
from model.norms import Norm
from model.sites import Site


class Block(nn.Module):
    """The pre-norm block: resid_post = resid_pre + attn_out + mlp_out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.resid_pre = Site("resid_pre")
        self.ln1 = Norm(config)
        self.attn = Attention(config)
        self.attn_out = Site("attn_out")
        self.resid_mid = Site("resid_mid")
        self.ln2 = Norm(config)
        self.mlp = FeedForward(config)
        self.mlp_out = Site("mlp_out")
        self.resid_post = Site("resid_post")

    def forward(self, resid: Float[Tensor, "batch pos d_model"], context: Context) -> Float[Tensor, "batch pos d_model"]:
        resid_pre = self.resid_pre(resid)
        attn_out = self.attn_out(self.attn(self.ln1(resid_pre), context))
        resid_mid = self.resid_mid(resid_pre + attn_out)
        mlp_out = self.mlp_out(self.mlp(self.ln2(resid_mid)))
        return self.resid_post(resid_mid + mlp_out)

"""Which of TransformerLens' hooks is which of our sites? A first guess from its name, which the checks then confirm or refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable

RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"(^|\.)hook_attn_scores$", r"\1scores"),
        (r"(^|\.)hook_([qk])_normed$", r"\1\2"),
        (r"(^|\.)hook_resid_mid2$", r"\1resid_mid_cross"),
        (r"(^|\.)hook_", r"\1"),
        (r"^(encoder|decoder)_(blocks|ln_final|embed|pos_embed)\b", r"\1.\2"),
        (r"^(encoder|decoder)\.(\d+)\.", r"\1.blocks.\2."),
        (r"\.self_attn\.", ".attn."),
        (r"^((?:encoder\.|decoder\.)?)(?:embed_ln|embed_layer_norm|ln_embed)\.", r"\1ln_embed."),
        (r"^((?:encoder\.|decoder\.)?)(embed|pos_embed)\.out$", r"\1\2"),
        (r"^token_type_embed\.out$", "segment_embed"),
    )
)
"""TransformerLens 4's spelling → ours, applied in this order."""

THREE_NORMS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^(decoder\.blocks\.\d+)\.ln2\."), r"\1.ln_cross."),
    (re.compile(r"^(decoder\.blocks\.\d+)\.ln3\."), r"\1.ln2."),
)
"""In a decoder block with cross-attention the second of three norms is the one before it."""

NORM = r"(?:ln1|ln2|ln_cross)(?:_post)?"
SITE = re.compile(
    r"(?:(?:encoder|decoder)\.)?(?:embed|pos_embed|segment_embed|(?:ln_embed|ln_final)\.(?:scale|normalized)"
    r"|blocks\.\d+\.(?:resid_pre|resid_mid|resid_mid_cross|resid_post|attn_out|cross_attn_out|mlp_out"
    rf"|{NORM}\.(?:scale|normalized)|(?:attn|cross_attn)\.(?:q|k|v|rot_q|rot_k|scores|pattern|z|result|out)"
    r"|mlp\.(?:pre|pre_linear|post|out)))"
)
"""The names that may become sites."""

WITNESS = re.compile(rf"(?:(?:encoder|decoder)\.)?(?:ln_embed|ln_final|blocks\.\d+\.{NORM})\.(?:in|out)")
"""What norms read and give: no sites of ours, but what others are checked against."""


def ours(hook: str, *, three_norms: bool = False) -> str:
    """Our spelling of a hook's name, whether or not we have such a site.

    >>> ours("blocks.3.hook_resid_pre"), ours("decoder_blocks.0.self_attn.hook_attn_scores"), ours("blocks.0.attn.hook_q_normed")
    ('blocks.3.resid_pre', 'decoder.blocks.0.attn.scores', 'blocks.0.attn.q')
    """
    for pattern, name in (*RULES, *THREE_NORMS) if three_norms else RULES:
        hook = pattern.sub(name, hook)
    return hook


def candidates(hooks: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The hooks that may be each site, the likeliest first, and the hook of each witness.

    The value behind a QK-norm comes before the one in front of it. In a block whose norms follow the sums, `resid_mid` is
    what the first of them gives, and what is added is what the last matrix of a sub-layer gives.

    >>> candidates(["embed.hook_out", "blocks.0.attn.hook_q", "blocks.0.attn.hook_q_normed", "hook_embed", "blocks.0.ln1.hook_in"])
    ({'embed': ['hook_embed', 'embed.hook_out'], 'blocks.0.attn.q': ['blocks.0.attn.hook_q_normed', 'blocks.0.attn.hook_q']}, {'blocks.0.ln1.in': 'blocks.0.ln1.hook_in'})
    """
    hooks = list(hooks)
    three_norms = any(".ln3." in hook for hook in hooks)
    sites: dict[str, list[str]] = {}
    witnesses: dict[str, str] = {}
    for hook in hooks:
        name = ours(hook, three_norms=three_norms)
        if SITE.fullmatch(name):
            sites.setdefault(name, []).append(hook)
        elif WITNESS.fullmatch(name):
            witnesses[name] = hook
    for name, found in sites.items():
        found.sort(key=lambda hook: (not hook.endswith("_normed"), hook.endswith(".hook_out") and not name.endswith(".out")))
        if name.endswith(".resid_mid") and (after := name.replace("resid_mid", "ln1.out")) in witnesses:
            found.append(witnesses[after])
        last = re.sub(r"attn_out$", "attn.o.hook_out", re.sub(r"mlp_out$", "mlp.out.hook_out", name))
        found.extend(hook for hook in hooks if last != name and ours(hook, three_norms=three_norms) == ours(last))
    return sites, witnesses

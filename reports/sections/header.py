"""What was examined? The model, its shape, how much text, on what, and the hash of the answers, in one strip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.content import content_hash
from reports.result import Result
from reports.sections._section import Section
from reports.text import format_number

_TEMPLATE = """
<dl class="strip" aria-label="What was examined">
{% for name, value in facts %}
<div><dt>{{ name }}</dt><dd{% if name == "content hash" %} class="code"{% endif %}>{{ value }}</dd></div>
{% endfor %}
</dl>
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    facts = _facts(run["provenance"]) + [("content hash", content_hash(results)[:16])]
    return Markup(environment.from_string(_TEMPLATE).render(facts=facts))


def _facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name → text of what is known; what is not known is left out."""
    model, corpus = provenance.get("model", {}), provenance.get("corpus", {})
    shape = model.get("shape") if isinstance(model.get("shape"), Mapping) else {}
    known = {**shape, **{key: value for key, value in model.items() if key != "shape"}}
    stacks = {side: known[side] for side in ("encoder", "decoder") if isinstance(known.get(side), Mapping)}
    size = ", ".join(f"{side} {_size(stack)}" for side, stack in stacks.items()) or _size(known)
    one = known | next(iter(stacks.values()), {})  # the stacks share d_model
    facts = [
        ("model", known.get("name")), ("shape", size), ("KV heads", known.get("n_kv_heads")), ("d_model", one.get("d_model")),
        ("tokens of text", corpus.get("text_tokens")), ("dtype", provenance.get("dtype")), ("device", provenance.get("device")), ("attention path", known.get("attention_path")),
    ]
    return [(name, _shown(value)) for name, value in facts if value not in (None, "")]


def _size(stack: Mapping[str, Any]) -> str:
    """Layers and heads, what is known of them.

    >>> _size({"n_layers": 3, "n_heads": 8})
    '3 layers × 8 heads'
    """
    return " × ".join(f"{_shown(stack[key])} {word}" for key, word in (("n_layers", "layers"), ("n_heads", "heads")) if stack.get(key) is not None)


def _shown(value: Any) -> str:
    return format_number(value) if isinstance(value, (int, float)) else str(value)


SECTION = Section(name="header", title="", order=0, html=_html)

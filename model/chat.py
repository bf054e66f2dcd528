"""How does a conversation become text? By the Jinja template that a checkpoint brings: a foreign program, run in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """{% generation %} marks what the assistant wrote; for the text it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses what is unsafe where it is written; Jinja's own prints nothing in its place."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"it reads {attribute!r} of a {type(obj).__name__}")


def write_chat(
    template: str, messages: Sequence[Mapping[str, Any]], special: Mapping[str, str], *, add_generation_prompt: bool = True
) -> str:
    """The messages as text. The template sees `messages`, `special` (bos_token, …), `add_generation_prompt`, and what templates of
    the field expect: raise_exception, strftime_now, tojson, loop controls, lines without the blanks around statements.

    A sandbox keeps a template from reaching Python's objects, not from running long.

    Raises ValueError in one sentence for messages that are not [{"role": …, "content": …}, …], for a template that cannot be
    read or that fails, and with the template's own words where it refuses a conversation.

    >>> write_chat("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", [{"role": "user", "content": "Hi"}], {})
    '<user>Hi'
    >>> write_chat("{{ messages.__class__ }}", [{"role": "user", "content": "Hi"}], {})
    Traceback (most recent call last):
    ...
    ValueError: the chat template is refused as unsafe: it reads '__class__' of a list
    """
    plain = _plain(messages)
    values = {**special, "messages": plain, "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
    try:
        return _environment().from_string(template).render(**values)
    except SecurityError as error:
        raise ValueError(f"the chat template is refused as unsafe: {error}") from None
    except TemplateSyntaxError as error:
        raise ValueError(f"the chat template cannot be read: {error.message}, line {error.lineno}") from None
    except TemplateError as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from None
    except Exception as error:  # it is a program, and may fail in any way
        raise ValueError(f"the chat template fails on these messages: {type(error).__name__}: {error}") from None


def _plain(messages: Any) -> list[dict[str, Any]]:
    """The messages as JSON has them: values without behaviour, none of them the caller's own."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise ValueError(f'messages must be a list such as [{{"role": "user", "content": "Hi"}}], got {messages!r:.40}')
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"every message must be a dict with a role, message {i} is {message!r:.40}")
    try:
        return json.loads(json.dumps([dict(message) for message in messages]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"messages must hold text, numbers, lists and dicts: {error}") from None


def _environment() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)

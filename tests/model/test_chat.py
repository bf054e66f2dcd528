"""Is a conversation written as the field's own library writes it, and does a hostile template get nothing?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import transformers

from model import Tokenizer, Transformer, load_model, save_model, wrap
from model.chat import write_chat
from tests.conftest import hugging_face

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is <b>2 + 2</b>?\n"},
    {"role": "assistant", "content": '4 — "four"'},
    {"role": "user", "content": "And 3 + 3?"},
]
CHATML = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
BLOCKS = """{{- bos_token }}
{%- if tools is not none and documents is defined %}
tools
{%- endif %}
{% for message in messages %}
    {%- if loop.index0 == 0 and message['role'] == 'system' %}{% continue %}{% endif %}
    {% if message['role'] not in ['user', 'assistant'] %}
        {{ raise_exception('Roles must be user or assistant, got ' + message['role']) }}
    {% endif %}
    {% generation %}
    {{ message | tojson }}{{ message.content | trim }}{{ eos_token }}
    {% endgeneration %}
{% endfor %}
{% if add_generation_prompt %}<assistant>{{ strftime_now('%%') }}{% endif %}
"""
"""Everything that templates of the field use: whitespace control, loop controls, generation blocks, tojson, exceptions, dates."""


def theirs_of(ours: Tokenizer, template: str) -> transformers.PreTrainedTokenizerFast:
    """The library's tokenizer around the same one, with the same template."""
    special = {f"{role}_token": ours.backend.id_to_token(getattr(ours, f"{role}_id")) for role in ("bos", "eos", "pad")}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=ours.backend, chat_template=template, **special)


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_smollm2_writes_what_the_library_writes(smollm2: Transformer, prompt: bool, n: int) -> None:
    tokenizer = smollm2.tokenizer
    theirs = theirs_of(tokenizer, tokenizer.chat_template)
    for talk in (TALK[:n], TALK[1 : n + 1]):
        text = tokenizer.chat(talk, add_generation_prompt=prompt)
        assert text == theirs.apply_chat_template(talk, add_generation_prompt=prompt, tokenize=False)
        assert tokenizer.encode(text) == theirs.apply_chat_template(talk, add_generation_prompt=prompt)["input_ids"]
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_start|>assistant\n") == prompt


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("template", [CHATML, BLOCKS])
def test_other_templates(smollm2: Transformer, template: str, prompt: bool) -> None:
    theirs = theirs_of(smollm2.tokenizer, template)
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    expected = theirs.apply_chat_template(TALK, add_generation_prompt=prompt, tokenize=False)
    assert write_chat(template, TALK, special, add_generation_prompt=prompt) == expected


def test_a_chat_is_tokenized_as_any_text(smollm2: Transformer) -> None:
    tokens, mask = smollm2.tokenize([smollm2.tokenizer.chat(TALK), smollm2.tokenizer.chat(TALK[:1])], pad="left")
    assert smollm2.to_str_tokens(tokens[0])[:4] == ["<|im_start|>", "system", "\n", "Be"] and mask[0].all() and not mask[1].all()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__ }}", "refused as unsafe: it reads '__class__' of a str"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refused as unsafe: it reads '__class__' of a str"),
        ("{{ messages[0]['__class__'] }}", "refused as unsafe: it reads '__class__' of a dict"),
        ("{{ ''|attr('__class__') }}", "refused as unsafe: it reads '__class__' of a str"),
        ("{{ raise_exception.__globals__ }}", "refused as unsafe: it reads '__globals__' of a function"),
        ("{{ '{0.__class__}'.format(1) }}", "refused as unsafe: it reads '__class__' of a int"),
        ("{{ self.__init__.__globals__ }}", "refused as unsafe: it reads '__init__' of a TemplateReference"),
        ("{{ cycler.__init__.__globals__.os.system('touch pwned') }}", "refused as unsafe: it reads '__init__' of a type"),
        ("{% set _ = messages.append(1) %}", "refused as unsafe"),
        ("{% set _ = messages[0].update({}) %}", "refused as unsafe"),
        ("{% include '/etc/passwd' %}", "fails on these messages: TypeError: no loader"),
        ("{% for m in messages %}", "cannot be read: .*line 1"),
        ("{{ raise_exception('Only one turn.') }}", "refuses these messages: Only one turn."),
        ("{{ messages[0].content + 1 }}", "fails on these messages: TypeError"),
        ("{{ range(10 ** 9) | list }}", "fails on these messages: OverflowError: Range too big"),
        ("{{ nothing.at.all }}", "refuses these messages: 'nothing' is undefined"),
    ],
)
def test_hostile_and_broken_templates(template: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^the chat template .*{message}") as raised:
        write_chat(template, TALK, {})
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_the_callers_messages_stay_out_of_reach() -> None:
    class Message(dict):
        def secret(self) -> str:
            return "reached"

    with pytest.raises(ValueError, match="'dict object' has no attribute 'secret'"):
        write_chat("{{ messages[0].secret() }}", [Message(role="user", content="Hi")], {})


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", "messages must be a list such as .*, got 'Hi'"),
        ([], r"got \[\]"),
        ({"role": "user"}, "messages must be a list"),
        (["Hi"], "every message must be a dict with a role, message 0 is 'Hi'"),
        ([TALK[0], {"content": "Hi"}], "message 1 is {'content': 'Hi'}"),
        ([{"role": "user", "content": {1, 2}}], "must hold text, numbers, lists and dicts"),
    ],
)
def test_mistakes_in_messages(messages: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_chat(CHATML, messages, {})


def test_no_template(glasslm: Transformer) -> None:
    with pytest.raises(ValueError, match="this tokenizer came without a chat template; set its chat_template"):
        glasslm.tokenizer.chat(TALK)


def words() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "hi": 1}, unk_token="<unk>"))


@pytest.mark.parametrize(
    ("settings", "file", "expected"),
    [
        ({"chat_template": "one"}, None, "one"),
        ({"chat_template": "one"}, "two", "two"),
        ({"chat_template": [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]}, None, "one"),
        ({"chat_template": {"default": "one"}}, None, "one"),
        ({}, None, None),
        (None, "two", "two"),
    ],
)
def test_where_templates_are_kept(settings: dict | None, file: str | None, expected: str | None, tmp_path: Path) -> None:
    """As transformers reads them: the file before the entry of tokenizer_config.json, and of several the one called default."""
    hugging_face("llama", 0).save_pretrained(tmp_path)
    words().save(str(tmp_path / "tokenizer.json"))
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    if file is not None:
        (tmp_path / "chat_template.jinja").write_text(file)
    model = load_model(tmp_path)
    assert model.tokenizer.chat_template == expected
    assert load_model(save_model(model, tmp_path / "ours")).tokenizer.chat_template == expected


def test_wrapping_keeps_the_template() -> None:
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=words(), chat_template=CHATML)
    ours = wrap(hugging_face("llama", 0), tokenizer=theirs).tokenizer
    assert ours.chat(TALK) == theirs.apply_chat_template(TALK, add_generation_prompt=True, tokenize=False)

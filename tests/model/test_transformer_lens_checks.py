"""Is a bridge of TransformerLens left as it is, are its faults found and named, and does the guide say what is so?"""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from torch import Tensor

from model import Transformer, wrap
from model.bridge import Bridged, is_bridge
from probes import Edit, UnknownSiteError, canonical, intervene, record, zero
from tests.conftest import relative
from tests.model.test_transformer_lens import both, bridge_around, foreign

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "from_transformer_lens.md"


@pytest.fixture(scope="module")
def bridged() -> Bridged:
    return both("llama")[1]


def state_of(bridge: Any) -> tuple:
    """Everything of a bridge that a user can see."""
    flags = {key: value for key, value in vars(bridge.cfg).items() if key.startswith("use_")}
    hooks = [name for name, hook in bridge.hook_dict.items() if hook.fwd_hooks or hook.bwd_hooks or hook._forward_hooks]
    modes = {name: module.training for name, module in bridge.original_model.named_modules()}
    wants = {name: parameter.requires_grad for name, parameter in bridge.original_model.named_parameters()}
    return flags, hooks, modes, wants, list(bridge.state_dict())


def test_the_bridge_is_left_as_it_is() -> None:
    theirs = foreign("llama")
    bridge = bridge_around(theirs)
    theirs.model.layers[1].train()
    bridge(torch.tensor([[1, 2]]))  # its own hooks are made in the first pass
    before = state_of(bridge)
    random = torch.random.get_rng_state()
    model = wrap(bridge)
    assert model.bridge is bridge and torch.equal(random, torch.random.get_rng_state())
    assert state_of(bridge) == before and not before[1] and any(before[2].values()) and not before[0]["use_attn_result"]
    with record(model, "*") as activations:
        model(torch.tensor([[1, 2, 3]]))
        assert state_of(bridge)[0]["use_attn_result"]
    assert state_of(bridge) == before and len(activations) == len(model.sites())
    with pytest.raises(RuntimeError, match="mine"), intervene(model, Edit("blocks.0.attn.result", zero())):
        raise RuntimeError("mine")
    with pytest.raises(UnknownSiteError), record(model, ["embed", "blocks.0.attn.patern"]):
        pass
    assert state_of(bridge) == before
    bridge.set_use_attn_result(True)
    with record(model, "blocks.0.attn.result"):
        model(torch.tensor([[1, 2, 3]]))
    assert bridge.cfg.use_attn_result, "who had it on keeps it on"
    assert (model.n_layers, model.n_heads, model.dtype, model.device.type, model.source.kind) == (3, 6, torch.float32, "cpu", "wrapped")


def unheard(bridge: Any) -> None:
    """An edit of the pattern of block 1 is thrown away."""
    attn = bridge.blocks[1].attn

    def pattern_of(scores: Tensor, **_: Any) -> Tensor:
        pattern = scores.softmax(-1)
        attn.hook_pattern(pattern)
        return pattern

    attn._softmax_dropout_pattern = pattern_of


def twice(bridge: Any) -> None:
    """The scale of a norm fires two times."""
    hook = bridge.blocks[0].ln2.hook_scale
    bridge.blocks[0].ln2.register_forward_pre_hook(lambda module, args: (hook(args[0][..., :1]), None)[1])


def behind_the_gain(bridge: Any) -> None:
    """What the last norm calls normalized is what it gives."""
    norm = bridge.ln_final

    def forward(x: Tensor) -> Tensor:
        scale = norm.hook_scale(x.var(-1, keepdim=True, correction=0).add(1e-5).sqrt())
        return norm.hook_normalized((x - x.mean(-1, keepdim=True)) / scale * norm.weight + norm.bias)

    norm._python_norm_forward = forward


def half_of_it(bridge: Any) -> None:
    """What attention gives is doubled behind its hook."""
    bridge.blocks[2].attn.register_forward_hook(lambda module, args, output: (output[0] * 2, *output[1:]))


def beside_the_stream(bridge: Any) -> None:
    """An edit of what enters block 1 is seen by its first norm, and not by the stream."""
    block, norm = bridge.blocks[1], bridge.blocks[1].ln1
    kept = {}
    block.hook_in.register_forward_pre_hook(lambda module, args: kept.__setitem__("stream", args[0]))

    def forward(hidden: Tensor, *args: Any, **options: Any) -> Any:
        kept["branch"] = hidden
        return inner(kept["stream"], *args, **options)

    inner = block.original_component.forward
    block.original_component.forward = forward
    norm.register_forward_pre_hook(lambda module, args: (kept["branch"], *args[1:]))


@pytest.mark.parametrize(
    ("plant", "line"),
    [
        (unheard, r"an edit does not reach the output: blocks\.1\.attn\.pattern"),
        (twice, r"fires 2 times in one pass: blocks\.0\.ln2\.scale"),
        (behind_the_gain, r"normalized · scale is not what the norm reads: ln_final\.normalized, ln_final\.scale"),
        (beside_the_stream, r"an edit does not enter what follows as it should: blocks\.1\.resid_pre"),
        (half_of_it, r"is not what is added to the stream: a multiplier follows: blocks\.2\.attn_out"),
    ],
)
def test_planted_faults_are_found_and_named(plant: Callable[[Any], None], line: str) -> None:
    bridge = bridge_around(foreign("gpt2").requires_grad_(False))
    plant(bridge)
    with pytest.warns(UserWarning, match=line) as told:
        model = wrap(bridge)
    assert len(told) == 1 and len(str(told[0].message).splitlines()) == 2
    named = re.findall(r"(?:blocks|ln_final)[\w.]+", str(told[0].message).splitlines()[1])
    assert named and not set(named) & set(model.sites())
    assert len(model.sites()) + len(named) == len(wrap(foreign("gpt2")).sites())


def test_one_warning_with_all_names() -> None:
    with pytest.warns(UserWarning) as told:
        wrap(bridge_around(foreign("gptj").requires_grad_(False)))
    text = str(told[0].message)
    assert len(told) == 1 and len(text.splitlines()) <= 8
    assert re.search(r"^TransformerLens' GPTJForCausalLM has \d+ of our sites; these are left out:", text)
    assert re.search(r"an edit does not reach the output: .*blocks\.\{0-\d\}\.attn\.pattern", text)
    assert re.search(r"never fires: .*blocks\.\{0-\d\}\.attn\.rot_q", text)


def test_a_whole_model_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrap(bridge_around(foreign("gpt2")))


@torch.no_grad()
def test_masked_scores_stay_masked_and_blind_queries_are_an_error(bridged: Bridged) -> None:
    tokens = torch.tensor([[3, 4, 5, 6]])
    clean = bridged(tokens)
    with intervene(bridged, Edit("blocks.0.attn.scores", lambda scores: scores.masked_fill(scores.isneginf(), 7.0))):
        assert torch.equal(bridged(tokens), clean)
    with pytest.raises(ValueError, match=r"an edit of scores leaves \d+ queries nothing to see, of which TransformerLens makes NaN"):
        with intervene(bridged, Edit("blocks.0.attn.scores", lambda scores: torch.full_like(scores, -torch.inf), heads=[0], positions=[2])):
            bridged(tokens)


def test_bad_input_is_one_sentence(bridged: Bridged) -> None:
    tokens = torch.tensor([[3, 4, 5]])
    for given, message in (
        ((tokens, torch.ones(1, 3)), "mask must be a bool tensor, True at real tokens, got torch.float32"),
        ((tokens + 1000,), r"token ids must be from 0 to \d+ .*, got 1005"),
        ((tokens[0],), r"tokens must have two axes \[batch, pos\], got shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            bridged(*given)
    with pytest.raises(ValueError, match=r"came without a tokenizer; give wrap\(bridge, tokenizer=...\)"):
        bridged.tokenize(["a"])


@pytest.fixture
def words(tmp_path: Path) -> Any:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "<p>": 1, "a": 2, "b": 3, "c": 4, "<u>": 5}, unk_token="<u>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<p>", "unk_token": "<u>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    return transformers.AutoTokenizer.from_pretrained(tmp_path)


def test_text_becomes_what_the_model_is_called_with(words: Any) -> None:
    model = wrap(bridge_around(foreign("gpt2").requires_grad_(False), words))
    tokens, mask = model.tokenize(["a b c", "b"], pad="left")
    assert tokens[1, -1] == 3 and mask.tolist() == [[True] * 3, [False, False, True]], "nothing is prepended unless asked for"
    assert model.tokenize(["a"], prepend_bos=True)[0].tolist() == [[0, 2]]
    assert relative(model(tokens, mask)[1, -1:], model(*model.tokenize(["b"]))[0]) < 1e-5
    with pytest.raises(ValueError, match="a model of one stack has no target sequence"):
        model.tokenize(["a"], target=["b"])


def test_nothing_is_imported_to_ask(tmp_path: Path) -> None:
    code = "import model.bridge, sys; model.bridge.is_bridge(object()); print('transformer_lens' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}
    )
    assert done.stdout.split() == ["False", "False"], done.stderr
    assert not is_bridge(foreign("gpt2"))


def rows(heading: str) -> Iterator[list[str]]:
    """The cells, without their backticks, of the table below a heading of the guide."""
    section = GUIDE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").replace("`", "").split("|")]


def test_every_hook_name_of_the_guide_is_understood() -> None:
    known = {name for family in ("gpt2", "llama", "gemma2", "bert", "t5") for name in wrap(foreign(family)).sites()}
    table = list(rows("Hook names"))
    assert len(table) > 30
    for theirs, ours, *_ in table:
        assert canonical(theirs) == ours, theirs
        assert ours in known, ours


def test_the_example_of_the_guide_runs() -> None:
    example = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example.group(1), str(GUIDE), "exec"), {})


def test_every_attribute_of_the_guide_is_there() -> None:
    model = wrap(foreign("llama"))
    assert isinstance(model, Transformer)
    for theirs, ours, *_ in rows("Sizes"):
        value = model
        for part in ours.removeprefix("model.").split("."):
            value = getattr(value, part)
        assert value is not None, theirs

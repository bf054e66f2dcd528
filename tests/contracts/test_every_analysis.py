"""Does every analysis keep its contract: documented parameters, tables with units, a verdict from numbers, the same answer twice?"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import tokenizers
import torch

from analyses._compare import compare_frames
from analyses._contract import Analysis
from analyses._corpus import Corpus, Prompt, load_corpus
from analyses._discovery import analyses
from model import Tokenizer, Transformer, TransformerConfig
from reports import Result, draw, load_result, page, save_result

EVERY = [pytest.param(analysis, id=name) for name, analysis in analyses().items()]


@pytest.fixture(scope="module")
def results(glasslm: Transformer) -> dict[str, tuple[Result, Result]]:
    """Every analysis twice, with its own defaults, on the small trained model."""
    corpus = load_corpus(glasslm)
    return {name: (analysis().run(glasslm, corpus), analysis().run(glasslm, corpus)) for name, analysis in analyses().items()}


@pytest.mark.parametrize("analysis", EVERY)
def test_says_what_it_is(analysis: type[Analysis]) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", analysis.name)
    for words in (analysis.title, analysis.question, analysis.method, analysis.limits):
        assert words.strip()
    assert analysis.question.endswith("?")
    module = Path(inspect.getfile(analysis))
    assert module.stem == analysis.name.replace("-", "_")
    assert "?" in ast.get_docstring(ast.parse(module.read_text())).split("\n\n")[0]


@pytest.mark.parametrize("analysis", EVERY)
def test_every_parameter_has_a_default_and_a_docstring(analysis: type[Analysis]) -> None:
    body = next(n for n in ast.parse(Path(inspect.getfile(analysis)).read_text()).body if isinstance(n, ast.ClassDef) and n.name == analysis.__name__)
    documented = {
        field.target.id for field, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    own = {f.name for f in dataclasses.fields(analysis)} - {"seed"}
    assert own <= documented, own - documented
    parameters = analysis().parameters()
    assert analysis(**json.loads(json.dumps(parameters), object_hook=lambda d: {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()})) == analysis()


@pytest.mark.parametrize("analysis", EVERY)
def test_result_is_whole(analysis: type[Analysis], results, tmp_path: Path) -> None:
    result, _ = results[analysis.name]
    assert any(len(table.frame) for table in result.tables.values()) and result.figures and result.verdict.claim.endswith(".") and result.notes
    for name, table in result.tables.items():
        assert table.caption, name
        for column, what in table.columns.items():
            assert what.meaning.strip(), (name, column)
            if pd.api.types.is_float_dtype(table.frame[column]):
                assert what.unit.strip(), f"{name}.{column} is a number without a unit"
    judged = [e for e in result.verdict.evidence if e.threshold is not None]
    assert judged or result.verdict.status == "inconclusive"
    for figure in result.figures:
        assert draw(figure).startswith("<")
    save_result(result, tmp_path)
    again = load_result(tmp_path)
    assert again.verdict == result.verdict and again.parameters == result.parameters
    assert analysis.title in page([again], title="one")


@pytest.mark.parametrize("analysis", EVERY)
def test_twice_the_same(analysis: type[Analysis], results) -> None:
    first, second = results[analysis.name]
    assert (first.verdict.status, set(first.tables)) == (second.verdict.status, set(second.tables))
    for name, table in first.tables.items():
        if not table.measurement:
            assert compare_frames(analysis.name, name, table.frame, second.tables[name].frame).outcome == "exact", name


def letters() -> Tokenizer:
    """One token a letter, 23 of them."""
    vocabulary = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuv")} | {"<unk>": 22}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    return Tokenizer(backend)


@pytest.mark.parametrize("n_ctx", [2, 12])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("analysis", EVERY)
def test_small_odd_models(analysis: type[Analysis], positions: str, n_ctx: int) -> None:
    """A random model with a short context: an answer or `inconclusive`, and never a number that is none."""
    config = TransformerConfig(n_layers=2, d_model=10, n_heads=4, n_kv_heads=2, d_head=6, d_mlp=7, d_vocab=23, n_ctx=n_ctx, positions=positions)
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    model.tokenizer = letters()
    prompts = tuple(Prompt(prompt=p[:n_ctx], target="a", foil="b", corrupt=p[:n_ctx][::-1]) for p in ("one text", "another", "a third one"))
    text = "it was a bright cold day in april and the clocks were striking thirteen " * 3
    corpus = Corpus(text=text, text_source="made", prompts=prompts, prompts_source="made", tokens=torch.tensor(model.tokenizer.encode(text)))
    result = analysis().run(model, corpus)
    if result.verdict.status != "inconclusive":
        assert all(e.measured == e.measured for e in result.verdict.evidence)


@pytest.mark.parametrize("analysis", EVERY)
def test_nothing_to_ask_about_is_inconclusive(analysis: type[Analysis], glasslm: Transformer) -> None:
    corpus = Corpus(text="", text_source="none", prompts=(), prompts_source="none", tokens=torch.zeros(0, dtype=torch.long))
    result = analysis().run(glasslm, corpus)
    if analysis.name in ("residual-stream", "head-ablation", "patching", "attribution"):
        assert result.verdict.status == "inconclusive"
    assert page([result], title="nothing")

"""Do the named encoder and encoder-decoder compute what their own code computes, from the tokens that they were trained on?"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
import types

import pytest
import tokenizers
import torch
import transformers

from model import EncoderDecoder, Tokenizer, Transformer, load_model, save_model, wrap
from model.zoo import data_path, zoo
from model.zoo.annalog import read_vocabulary
from tests.conftest import hugging_face, relative

ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"
SENTENCES = ["Hello world!", "The cat sat on the mat; naïve cafés, 漢字 and unaffable words.", ""]


@pytest.fixture(scope="module")
def minilm() -> Transformer:
    return load_model("minilm")


@pytest.fixture(scope="module")
def annalog() -> EncoderDecoder:
    return load_model("annalog")


def test_minilm_tokens_are_those_of_the_packages_template(minilm: Transformer) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(zoo()["minilm"].path().with_name("tokenizer.json")))
    theirs.no_padding()
    expected = [theirs.encode(text).ids for text in SENTENCES]
    for side in ("left", "right"):
        tokens, mask = minilm.tokenize(SENTENCES, pad=side)
        assert [row[real].tolist() for row, real in zip(tokens, mask, strict=True)] == expected
    assert minilm.tokenizer.to_str_tokens(expected[2]) == ["[CLS]", "[SEP]"]
    assert minilm.tokenizer.encode("hello") == expected_inner(theirs, "hello")
    with pytest.raises(ValueError, match="template=True and prepend_bos=True"):
        minilm.tokenize(SENTENCES, prepend_bos=True)


def expected_inner(theirs: tokenizers.Tokenizer, text: str) -> list[int]:
    return theirs.encode(text, add_special_tokens=False).ids


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_minilm_equals_transformers(minilm: Transformer, side: str) -> None:
    theirs = transformers.BertModel.from_pretrained(zoo()["minilm"].path().parent, attn_implementation="eager").eval()
    tokens, mask = minilm.tokenize(SENTENCES, pad=side)
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    expected = theirs(tokens, attention_mask=mask.long(), position_ids=positions).last_hidden_state
    assert minilm.config.head == "none" and relative(minilm(tokens, mask)[mask], expected[mask]) < 1e-5


@torch.no_grad()
def test_minilm_puts_alike_sentences_close(minilm: Transformer) -> None:
    tokens, mask = minilm.tokenize(["A man is playing a guitar.", "Somebody plays an instrument.", "The stock market fell sharply."])
    states = minilm(tokens, mask).masked_fill(~mask.unsqueeze(-1), 0.0).sum(1)
    embedding = torch.nn.functional.normalize(states / mask.sum(1, keepdim=True), dim=-1)
    assert embedding[0] @ embedding[1] > 0.5 > 0.2 > embedding[0] @ embedding[2]


def original(annalog: EncoderDecoder) -> torch.nn.Module:
    """The package's own module; the package itself is not imported, as that needs RDKit."""
    path = zoo()["annalog"].path()
    package = types.ModuleType("annalog_files")
    package.__path__ = [str(path.parent.parent / "model_files")]
    sys.modules.setdefault("annalog_files", package)
    module = importlib.import_module("annalog_files.seq2seq_attention")
    stacks = (make(59, 256, 3, 8, 512, 0.1, "cpu", 102) for make in (module.Encoder, module.Decoder))
    model = module.Seq2Seq(*stacks, annalog.tokenizer.pad_id, annalog.tokenizer.pad_id, "cpu")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


@torch.no_grad()
def test_annalog_equals_its_own_module(annalog: EncoderDecoder) -> None:
    theirs, molecules = original(annalog), data_path("molecules.txt").read_text().split()
    source, target, source_mask, target_mask = annalog.tokenize(molecules, molecules[::-1])
    assert not source_mask.all() and not target_mask.all()
    assert torch.equal(source_mask, source != 1) and torch.equal(target_mask, target != 1)
    assert relative(annalog(source, target, source_mask, target_mask)[target_mask], theirs(source, target)[0][target_mask]) < 1e-5
    exact, seen = load_model("annalog", dtype=torch.float64), []
    expected, cross = theirs.double()(source, target)  # divides by a √d_head rounded to fp32
    remove = exact.sites()["decoder.blocks.2.cross_attn.pattern"].watch(seen.append)
    assert relative(exact(source, target, source_mask, target_mask)[target_mask], expected[target_mask]) < 1e-6
    remove()
    assert relative(seen[0].transpose(1, 2)[target_mask], cross.transpose(1, 2)[target_mask]) < 1e-6


def test_annalog_tokens_equal_its_own(annalog: EncoderDecoder) -> None:
    original(annalog)
    theirs = importlib.import_module("annalog_files.vocabulary").SMILESTokenizer()
    vocab = read_vocabulary(zoo()["annalog"].path().with_name("stereo_experiment_vocab_ttf.pkl"))
    assert len(vocab) == 59 and vocab[-3:] == ["%10", "%11", "%12"]
    for text in (*data_path("molecules.txt").read_text().split(), "C[C@@H](N)C(=O)[O-]", "BrC%10CCl%12", "[Xe]C"):
        parts = theirs.tokenize(text)
        assert annalog.tokenizer.encode(text) == [vocab.index(part) if part in vocab else 0 for part in parts]
        assert annalog.tokenizer.encode(text, template=True) == [2, *annalog.tokenizer.encode(text), 3]
    source, target, _, _ = annalog.tokenize([ASPIRIN], [ASPIRIN])
    assert source[0].tolist() == [2, *annalog.tokenizer.encode(ASPIRIN), 3] and target[0].tolist() == source[0, :-1].tolist()
    assert annalog.tokenizer.decode(source[0], special=False) == ASPIRIN
    assert annalog.tokenize([ASPIRIN])[1].tolist() == [[2]]


def test_annalog_folder_keeps_both_tokenizers(annalog: EncoderDecoder, tmp_path) -> None:
    again = load_model(save_model(annalog, tmp_path))
    for ours, theirs in zip(again.tokenize([ASPIRIN], [CAFFEINE]), annalog.tokenize([ASPIRIN], [CAFFEINE]), strict=True):
        assert torch.equal(ours, theirs)
    assert again.tokenizer.roles() == annalog.tokenizer.roles() and again.target_tokenizer.roles() == annalog.target_tokenizer.roles()


def test_annalog_files_that_are_something_else(tmp_path) -> None:
    hostile = b"cbuiltins\nexec\n(S'raise SystemExit'\ntR."  # ends the process if it is unpickled
    vocabulary, weights = tmp_path / "v.pkl", tmp_path / "w.pt"
    for content, message in (
        (pickle.dumps({"x": 1}), r"must hold the strings 'itos' and 'stoi' around its tokens, got \['x'\]"),
        (pickle.dumps({"itos": ["a", "b"], "stoi": {}}), r"begin with <unk>, <pad>, <sos>, <eos>, got \['a', 'b'\]"),
        (b"no pickle", "v.pkl cannot be read as a vocabulary"), (hostile, "must hold the strings 'itos' and 'stoi'"),
    ):
        vocabulary.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_vocabulary(vocabulary)
    with pytest.raises(ValueError, match="gone.pkl cannot be read as a vocabulary"):
        read_vocabulary(tmp_path / "gone.pkl")
    for content in (b"damaged", hostile, b""):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="w.pt cannot be read as a checkpoint of tensors"):
            zoo()["annalog"].read(weights, "cpu", torch.float32)


def word_tokenizer(template: str | None = None, **roles: int) -> Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="<s>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if template:
        backend.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return Tokenizer(backend, **roles)


def test_targets() -> None:
    t5 = word_tokenizer("$A </s>", eos_id=1, pad_id=0, decoder_start_id=0)
    assert [x.tolist() for x in t5.targets(["a b", ""])] == [[[0, 2, 3], [0, 0, 0]], [[True] * 3, [True, False, False]]]
    assert t5.targets(["a b", "b"], pad="left")[0].tolist() == [[0, 2, 3], [0, 0, 3]]
    bart = word_tokenizer("<s> $A </s>", eos_id=1, decoder_start_id=1)
    assert bart.targets(["a"])[0].tolist() == [[1, 0, 2]] and bart.starts(2)[0].tolist() == [[1], [1]]
    with pytest.raises(ValueError, match="knows no token that a target starts with; set its decoder_start_id"):
        word_tokenizer().targets(["a"])
    with pytest.raises(ValueError, match="got one string: put it in a list, \\['a'\\]"):
        t5.targets("a")
    with pytest.raises(ValueError, match="at least one text, got an empty list"):
        t5.targets([])
    with pytest.raises(ValueError, match="pad must be 'left' or 'right', got 'middle'"):
        t5.targets(["a"], pad="middle")


def test_who_follows_the_template(tmp_path) -> None:
    templated = word_tokenizer("<s> $A </s>", bos_id=0, eos_id=1)
    decoder, encoder, both = (wrap(hugging_face(name, 0), tokenizer=templated) for name in ("gpt2", "bert", "marian"))
    assert decoder.tokenize(["a b"])[0].tolist() == [[2, 3]]
    assert decoder.tokenize(["a b"], prepend_bos=True)[0].tolist() == [[0, 2, 3]]
    assert encoder.tokenize(["a b"])[0].tolist() == [[0, 2, 3, 1]]
    start = 100
    assert both.tokenizer.decoder_start_id == start and encoder.tokenizer.decoder_start_id is None
    source, target, _, _ = both.tokenize(["a b"], ["b"])
    assert source.tolist() == [[0, 2, 3, 1]] and target.tolist() == [[start, 0, 3]]
    both.target_tokenizer = word_tokenizer(decoder_start_id=3)
    assert both.tokenize(["a b"], ["b"])[1].tolist() == [[3, 3]] and both.tokenize(["a", "b"])[1].tolist() == [[3], [3]]
    both.tokenizer = None
    with pytest.raises(ValueError, match="came without a tokenizer"):
        both.tokenize(["a"])


def test_start_token_of_a_folder(tmp_path) -> None:
    theirs = hugging_face("marian", 0)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(word_tokenizer("$A </s>").backend.to_str())
    assert load_model(tmp_path).tokenizer.decoder_start_id == 100
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "decoder_start_token_id"}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"decoder_start_token_id": 7, "eos_token_id": [1, 5]}))
    tokenizer = load_model(tmp_path).tokenizer
    assert tokenizer.decoder_start_id == 7

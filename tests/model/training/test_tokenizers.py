"""Do trained tokenizers cut text as their definitions say, and give it back?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.training import Recipe, SequenceToSequence, train, train_byte_level_bpe, train_characters, train_wordpiece
from tests.model.training.samples import encoder_decoder

TEXTS = ["the cat sat on the mat", "the cats sat on the mats", "a cat that sat"]
BPE = train_byte_level_bpe(TEXTS, d_vocab=280)


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_bytes_write_every_text(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


def test_byte_pairs_merge_what_is_frequent() -> None:
    assert BPE.backend.get_vocab_size() <= 280 and len(BPE.encode("the cat")) < len("the cat")
    assert (BPE.pad_id, BPE.bos_id, BPE.eos_id) == (0, 1, 2)
    assert train_byte_level_bpe(TEXTS, d_vocab=280).backend.to_str() == BPE.backend.to_str()


def test_word_pieces_have_the_roles_of_bert() -> None:
    tokenizer = train_wordpiece(TEXTS, d_vocab=60)
    vocab = tokenizer.backend.get_vocab()
    assert [vocab[role] for role in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    assert tokenizer.backend.encode("The cats").tokens[0] == "[CLS]" and tokenizer.backend.encode("The cats").tokens[-1] == "[SEP]"
    assert any(token.startswith("##") for token in vocab) and tokenizer.decode(tokenizer.encode("The cat")) == "the cat"


def test_characters_are_one_token_each() -> None:
    tokenizer = train_characters(TEXTS)
    assert len(tokenizer.encode(TEXTS[0])) == len(TEXTS[0]) and tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
    assert tokenizer.backend.get_vocab_size() == 4 + len(set("".join(TEXTS)))
    assert tokenizer.encode("z") == [3]


def test_a_model_reads_them() -> None:
    tokens, mask = train_characters(TEXTS).batch(["cat", "a"])
    assert tokens.shape == (2, 3) and tokens[1, 1:].tolist() == [0, 0] and mask[1].tolist() == [True, False, False]


def test_a_model_learns_to_spell_backwards_and_to_end() -> None:
    model = encoder_decoder()
    model.tokenizer = train_characters(["abcdefg"])
    words = ["abc", "gfd", "ceadb"]
    batch, end = model.tokenize(words, [word[::-1] for word in words]), model.tokenizer.eos_id
    train(model, [batch], SequenceToSequence(end_id=end), Recipe(steps=60, learning_rate=1e-2, warmup=5))
    written = model(*batch).argmax(-1)[2]
    assert model.tokenizer.to_str_tokens(written) == [*"bdaec", "<eos>"]


def test_what_cannot_be_learned_from() -> None:
    for learn in (lambda texts: train_byte_level_bpe(texts, 300), lambda texts: train_wordpiece(texts, 30), train_characters):
        with pytest.raises(ValueError, match="some text to learn from, got none"):
            learn([""])
        with pytest.raises(ValueError, match="got one string: put it in a list, \\['the cat"):
            learn(TEXTS[0])
    with pytest.raises(ValueError, match="d_vocab of at least 259, got 258"):
        train_byte_level_bpe(TEXTS, 258)
    with pytest.raises(ValueError, match="more than the 5 tokens with a role, got 5"):
        train_wordpiece(TEXTS, 5)

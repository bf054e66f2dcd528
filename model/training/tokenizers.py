"""How is text cut into tokens? The three classic ways, learned from a text: byte pairs, word pieces, single characters.

All are trained by the `tokenizers` library. Ids 0, 1, … are those of the tokens with a role.
"""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from model.tokenizer import Tokenizer

ROLES = {"pad_id": "<pad>", "bos_id": "<bos>", "eos_id": "<eos>", "decoder_start_id": "<bos>"}
SPECIALS = ("<pad>", "<bos>", "<eos>")
BERT_ROLES = {"pad_id": "[PAD]", "bos_id": "[CLS]", "eos_id": "[SEP]"}
N_BYTES = 256


def train_byte_level_bpe(texts: Iterable[str], d_vocab: int) -> Tokenizer:
    """Byte-pair encoding over bytes (Sennrich et al. 2016; Radford et al. 2019): every text can be written, and comes back exactly.

    `d_vocab` is the most there can be: a short text may have fewer pairs to merge. Raises ValueError for no text, and unless
    the 256 bytes and the tokens with a role fit.

    >>> tokenizer = train_byte_level_bpe(["low lower lowest"], d_vocab=264)
    >>> tokenizer.to_str_tokens("low ☃")[0], tokenizer.decode(tokenizer.encode("lowest ☃"))
    ('low', 'lowest ☃')
    """
    if d_vocab < N_BYTES + len(SPECIALS):
        least = N_BYTES + len(SPECIALS)
        raise ValueError(f"{N_BYTES} bytes and {len(SPECIALS)} tokens with a role need d_vocab of at least {least}, got {d_vocab}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_texts(texts), trainer)
    return _with_roles(backend, ROLES)


def train_wordpiece(texts: Iterable[str], d_vocab: int, *, lowercase: bool = True) -> Tokenizer:
    """Word pieces (Schuster & Nakajima 2012; Devlin et al. 2019), with BERT's roles [PAD] [UNK] [CLS] [SEP] [MASK] and its template.

    The id of [MASK] is `tokenizer.backend.token_to_id("[MASK]")`, 4. Raises ValueError for no text, and unless the roles fit.

    >>> tokenizer = train_wordpiece(["low lower lowest"], d_vocab=30)
    >>> tokenizer.backend.token_to_id("[MASK]"), tokenizer.backend.encode("Lowest").tokens[::2]
    (4, ['[CLS]', '[SEP]'])
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if d_vocab <= len(specials):
        raise ValueError(f"d_vocab must hold more than the {len(specials)} tokens with a role, got {d_vocab}")
    kept, normalizer = _texts(texts), normalizers.BertNormalizer(lowercase=lowercase)
    vocab = _word_pieces(kept, d_vocab, specials, normalizer)
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.add_special_tokens(specials)
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends)
    return _with_roles(backend, BERT_ROLES)


def _word_pieces(texts: list[str], d_vocab: int, specials: list[str], normalizer: normalizers.Normalizer) -> dict[str, int]:
    """Piece → id, the same in every process.

    The library numbers the inner letters (##a) as its hash map yields them, in another order each time, and breaks ties between
    pairs by number. So they are given to it first, in alphabetical order.
    """
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    inner = sorted({f"##{letter}" for word in words for letter in word[1:]})
    learner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizer, splitter
    trainer = trainers.WordPieceTrainer(vocab_size=d_vocab, special_tokens=[*specials, *inner], show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return learner.get_vocab()


def train_characters(texts: Iterable[str]) -> Tokenizer:
    """One token for each character that the texts hold, in the order of their code points; `<unk>` for any other.

    Raises ValueError for no text.

    >>> tokenizer = train_characters(["abba"])
    >>> tokenizer.encode("bax"), tokenizer.decode([5, 4])
    ([5, 4, 3], 'ba')
    """
    specials = [*SPECIALS, "<unk>"]
    letters = sorted({letter for text in _texts(texts) for letter in text})
    vocab = {token: i for i, token in enumerate([*specials, *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))  # without merges: single characters
    backend.add_special_tokens(specials)
    backend.decoder = decoders.Fuse()
    return _with_roles(backend, ROLES)


def _texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError(f"texts must be a list of strings, got one string: put it in a list, [{texts[:20]!r}]")
    kept = [text for text in texts if text]
    if not kept:
        raise ValueError("there must be some text to learn from, got none")
    return kept


def _with_roles(backend: tokenizers.Tokenizer, roles: dict[str, str]) -> Tokenizer:
    return Tokenizer(backend, **{role: backend.token_to_id(token) for role, token in roles.items()})

"""G2P: how is this word pronounced? The encoder-decoder of the paper, small, from letters to phonemes, trained on CMUdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from model.config import EncoderDecoderConfig, TransformerConfig
from model.encoder_decoder import EncoderDecoder
from model.generation import generate
from model.tokenizer import Tokenizer
from model.training import Recipe, SequenceToSequence
from model.training.objectives import Batch
from model.zoo._contract import ZooModel, read_shipped
from model.zoo._course import Course
from model.zoo._pronunciations import pronunciations

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
PHONEMES = tuple("AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split())
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
N_CTX = 48
BATCH = 128


def build(seed: int) -> EncoderDecoder:
    """The untrained model: post-norm, sinusoidal positions, ReLU, as in the paper; width 128 in place of 512."""
    shape = dict(
        family="g2p",
        n_layers=3,
        d_model=128,
        n_heads=4,
        d_head=32,
        d_mlp=512,
        n_ctx=N_CTX,
        positions="sinusoidal",
        norm_place="post",
        final_norm=False,
        activation="relu",
        embed_scale=128**0.5,
    )
    encoder = TransformerConfig(**shape, d_vocab=len(SPECIALS) + len(LETTERS), causal=False, head="none")
    decoder = TransformerConfig(**shape, d_vocab=len(SPECIALS) + len(PHONEMES))
    config = EncoderDecoderConfig(encoder=encoder, decoder=decoder, shared_embeddings=False)
    model = EncoderDecoder(config, generator=torch.Generator().manual_seed(seed))
    model.tokenizer, model.target_tokenizer = letters(), phonemes()
    return model


def letters() -> Tokenizer:
    """One token for each letter, of either case, and one for the end of the word.

    >>> letters().to_str_tokens(letters().encode("Cat", template=True))
    ['c', 'a', 't', '<eos>']
    """
    backend = _backend(LETTERS)
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return _with_roles(backend)


def phonemes() -> Tokenizer:
    """One token for each phoneme; blanks stand between them.

    >>> phonemes().decode(phonemes().encode("K AE T"))
    'K AE T'
    """
    backend = _backend(PHONEMES)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_roles(backend)


class Groups(Sequence[Batch]):
    """Every word that is not held out with each of its pronunciations; 128 pairs of about one length make a batch.

    Who stands with whom is drawn from the seed.
    """

    def __init__(self, model: EncoderDecoder, seed: int) -> None:
        self.model = model
        pairs = [(word, said) for word, variants in pronunciations("train").items() for said in variants]
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
        self.pairs = sorted((pairs[i] for i in order), key=lambda pair: (len(pair[0]), pair[1].count(" ")))

    def __len__(self) -> int:
        return -(-len(self.pairs) // BATCH)

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < len(self):
            raise IndexError(i)
        words, said = zip(*self.pairs[i * BATCH : (i + 1) * BATCH], strict=True)
        return self.model.tokenize(words, said)


def lessons(model: EncoderDecoder, seed: int) -> tuple[Groups, SequenceToSequence]:
    """Words and their pronunciations, each of which ends with <eos>."""
    return Groups(model, seed), SequenceToSequence(end_id=model.target_tokenizer.eos_id)


def measure(model: EncoderDecoder, n: int | None = None) -> dict[str, float]:
    """Errors on n held-out words from all over the alphabet (None: on all): greedy decoding, nearest reference.

    The phoneme error rate is the sum of edit distances over the sum of lengths of the references, the word error rate the
    share of words with any error.
    """
    words = pronunciations("held out")
    chosen = list(words)[:: max(1, len(words) // n) if n else 1][:n]
    said = pronounce(model, chosen)
    errors = [_nearest(mine, words[word]) for word, mine in zip(chosen, said, strict=True)]
    wrong, length = (sum(column) for column in zip(*errors, strict=True))
    return {
        "phoneme_error_rate": wrong / length,
        "word_error_rate": sum(e > 0 for e, _ in errors) / len(errors),
        "n_held_out_words": len(chosen),
    }


def pronounce(model: EncoderDecoder, words: Sequence[str]) -> list[str]:
    """The phonemes that the model writes, one phoneme at a time, the likeliest each time."""
    said = []
    for i in range(0, len(words), BATCH):
        said += generate(model, words[i : i + BATCH], n_new=N_CTX).texts
    return said


def _nearest(said: str, references: Iterable[str]) -> tuple[int, int]:
    """Errors against the reference that has the smallest share of them, and its length, in phonemes."""
    counts = [(edit_distance(said.split(), reference.split()), len(reference.split())) for reference in references]
    return min(counts, key=lambda count: count[0] / count[1])


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that turn a into b (Levenshtein 1966).

    >>> edit_distance("K AE T".split(), "K AH T S".split())
    2
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def _backend(tokens: Sequence[str]) -> tokenizers.Tokenizer:
    vocab = {token: i for i, token in enumerate([*SPECIALS, *tokens])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIALS])
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", vocab["<eos>"])])
    return backend


def _with_roles(backend: tokenizers.Tokenizer) -> Tokenizer:
    pad, bos, eos = (backend.token_to_id(token) for token in SPECIALS[:3])
    return Tokenizer(backend, pad_id=pad, bos_id=bos, eos_id=eos, decoder_start_id=bos)


COURSE = Course(
    recipe=Recipe(
        steps=2800,
        learning_rate=1.5e-3,
        warmup=200,
        decay="cosine",
        betas=(0.9, 0.98),
        eps=1e-9,
        weight_decay=0.01,
        label_smoothing=0.1,
    ),
    build=build,
    lessons=lessons,
    measure=measure,
    data=("cmudict.dict.gz",),
    method=(
        "AdamW on every word of CMUdict with its pronunciations but one word in 20, which is held out by the digest of its spelling; "
        "words of letters only, stress dropped (39 phonemes); batches of 128 pairs of about one length. Phoneme error rate: edit distance "
        "to the nearest reference over its length, greedy decoding, all held-out words. Inflected forms of a held-out word may be among "
        "the words learned."
    ),
)
MODEL = ZooModel(
    name="g2p",
    title="G2P (encoder and decoder of 3 layers × 4 heads, 1.4 M parameters, letters to phonemes)",
    licence="Apache-2.0; learned from CMUdict (BSD-2-Clause, Carnegie Mellon University)",
    read=read_shipped,
    text="words.txt",
    prompts="words.jsonl",
    course=COURSE,
)

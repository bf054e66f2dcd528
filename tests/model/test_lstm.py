"""Is the recurrent baseline an LSTM, and can it be called, padded, watched, changed, trained and kept as a Transformer can?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from model import LSTMConfig, LSTMLanguageModel, generate, load_model, save_model
from model.training import CausalLM, Recipe, train, train_characters
from model.zoo import _characters
from model.zoo._prose import RandomWindows
from probes import Edit, UnknownSiteError, intervene, record, zero
from tests.conftest import relative

D_VOCAB = 13


def small(seed: int = 0, **choices: float | str) -> LSTMLanguageModel:
    config = LSTMConfig(n_layers=2, d_model=6, d_vocab=D_VOCAB, **choices)
    return LSTMLanguageModel(config, generator=torch.Generator().manual_seed(seed)).eval().requires_grad_(False)


def tokens(batch: int = 3, pos: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(D_VOCAB, (batch, pos), generator=torch.Generator().manual_seed(seed))


def by_the_equations(model: LSTMLanguageModel, row: Tensor) -> Tensor:
    """Hochreiter & Schmidhuber 1997 with forget gates (Gers et al. 2000), one step at a time."""
    x = model.embedding.weight[row]
    for layer in model.layers:
        lstm, h, c, hidden = layer.lstm, torch.zeros(6, dtype=x.dtype), torch.zeros(6, dtype=x.dtype), []
        for step in x:
            gates = lstm.weight_ih_l0 @ step + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
            i, f, g, o = gates.split(6)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hidden.append(h)
        x = torch.stack(hidden)
    return x @ model.unembedding.weight.T + model.unembedding.bias


def test_it_is_the_lstm_of_the_equations_and_of_torch() -> None:
    model, read = small().double(), tokens()
    logits = model(read)
    assert relative(logits, torch.stack([by_the_equations(model, row) for row in read])) < 1e-12
    theirs = nn.LSTM(6, 6, num_layers=2, batch_first=True).double()
    weights = {f"{name[:-1]}{i}": p for i, layer in enumerate(model.layers) for name, p in layer.lstm.named_parameters()}
    theirs.load_state_dict(weights)
    assert relative(logits, model.unembedding(theirs(model.embedding(read))[0])) < 1e-12


def test_plain_cells_are_those_of_the_equation_and_of_torch(tmp_path) -> None:
    model, read = small(cell="rnn").double(), tokens()
    x = model.embedding(read)
    for layer in model.layers:
        rnn, h, hidden = layer.rnn, torch.zeros(3, 6, dtype=x.dtype), []
        for step in x.unbind(1):
            h = (step @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0).tanh()
            hidden.append(h)
        x = torch.stack(hidden, dim=1)
    assert relative(model(read), model.unembedding(x)) < 1e-12
    theirs = nn.RNN(6, 6, num_layers=2, batch_first=True).double()
    theirs.load_state_dict({f"{name[:-1]}{i}": p for i, layer in enumerate(model.layers) for name, p in layer.rnn.named_parameters()})
    assert relative(model(read), model.unembedding(theirs(model.embedding(read))[0])) < 1e-12
    again = load_model(save_model(model, tmp_path / "kept"), dtype=torch.float64)
    assert again.config == model.config and all(torch.equal(kept, p) for kept, p in zip(again.parameters(), model.parameters(), strict=True))
    assert relative(again(read), model(read)) < 1e-12


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_stepped_over(side: str, cell: str) -> None:
    model, read = small(cell=cell), tokens()
    mask = torch.ones_like(read, dtype=torch.bool)
    for row, n in ((0, 4), (2, 7)):
        mask[row, slice(n) if side == "left" else slice(9 - n, None)] = False
    with record(model, "layers.*.hidden") as activations:
        logits = model(read, mask)
    for row in range(3):
        assert relative(logits[row, mask[row]], model(read[row : row + 1, mask[row]])[0]) < 1e-5
    other = read.masked_fill(~mask, 0)
    assert torch.equal(model(other, mask)[mask], logits[mask])
    assert activations["layers.1.hidden"][~mask].abs().max() == 0 < activations["layers.1.hidden"][mask].abs().min()


def test_a_token_changes_only_what_comes_after() -> None:
    model, read = small(), tokens()
    changed = read.clone()
    changed[:, 5] = (changed[:, 5] + 1) % D_VOCAB
    before, after = model(read), model(changed)
    assert torch.equal(before[:, :5], after[:, :5]) and (before[:, 5:] != after[:, 5:]).any(-1).all()


def test_sites_are_watched_and_changed() -> None:
    model, read = small(), tokens()
    clean = model(read)
    with record(model, "*") as activations:
        model(read)
    assert list(activations) == list(model.sites()) == ["embed", "layers.0.hidden", "layers.1.hidden", "logits"]
    assert torch.equal(activations["logits"], clean) and torch.equal(activations["embed"], model.embedding(read))
    assert torch.equal(model.unembedding(activations["layers.1.hidden"]), clean)
    with intervene(model, Edit("layers.1.hidden", zero())):
        assert torch.equal(model(read), model.unembedding.bias.expand_as(clean))
    with intervene(model, Edit("layers.0.hidden", zero(), positions=[4])):
        edited = model(read)
    assert torch.equal(edited[:, :4], clean[:, :4]) and (edited[:, 4:] != clean[:, 4:]).any(-1).all()
    assert torch.equal(model(read), clean)
    with pytest.raises(UnknownSiteError, match=r"blocks.0.attn.pattern"), record(model, "blocks.0.attn.pattern"):
        model(read)


def test_it_learns_in_the_same_loop_and_is_kept(tmp_path) -> None:
    tokenizer = train_characters(["abcabcabc"])
    model = LSTMLanguageModel(LSTMConfig(n_layers=2, d_model=16, d_vocab=7, dropout=0.1), generator=torch.Generator().manual_seed(0))
    model.tokenizer = tokenizer
    batch = model.tokenize(["abcabcabcabc", "bcab"], pad="left")
    table = train(model, [batch], CausalLM(), Recipe(steps=150, learning_rate=3e-2, weight_decay=0.0), folder=tmp_path / "checkpoints")
    assert table["loss"].iloc[0] > 1.5 > 0.2 > table["loss"].iloc[-1]
    assert {"gradient_norm/layers.0", "update_ratio/layers.1", "gradient_norm/unembedding"} <= set(table.columns)
    again = load_model(save_model(model.eval(), tmp_path / "kept"))
    assert isinstance(again, LSTMLanguageModel) and again.config == model.config and not again.training
    assert torch.equal(again(*batch), model(*batch)) and again.tokenize(["cab"])[0].tolist() == model.tokenize(["cab"])[0].tolist()
    assert load_model(tmp_path / "kept", dtype=torch.float64).dtype == torch.float64
    assert again.tokenizer.decode(again(*again.tokenize(["abcab"]))[0].argmax(-1)) == "bcabc"


def test_one_seed_one_model() -> None:
    assert torch.equal(small(3)(tokens()), small(3)(tokens())) and not torch.equal(small(3)(tokens()), small(4)(tokens()))
    bias = small().layers[0].lstm.bias_ih_l0
    assert bias.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12


def test_it_learns_sooner_than_from_a_small_embedding_and_unembedding() -> None:
    """A baseline that starts where it hardly learns loses for its start."""
    config = LSTMConfig(n_layers=2, d_model=77, d_vocab=_characters.characters().backend.get_vocab_size())
    windows = RandomWindows(_characters.prose_tokens(0), n_batches=100, batch=16, length=32, seed=0)
    losses = []
    for size in (1.0, config.d_model**-0.5):
        model = LSTMLanguageModel(config, generator=torch.Generator().manual_seed(0))
        assert all(part.weight.detach().std().item() == pytest.approx(1, abs=0.05) for part in (model.embedding, model.unembedding))
        with torch.no_grad():
            for part in (model.embedding, model.unembedding):
                part.weight.mul_(size)
        losses.append(train(model, windows, CausalLM(), Recipe(steps=100, learning_rate=1e-2, warmup=10))["loss"].iloc[-10:].mean())
    assert losses[0] < losses[1] - 0.3


def test_what_it_cannot_read() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"token ids must be from 0 to 12 \(d_vocab=13\), got 13"):
        model(torch.tensor([[13]]))
    with pytest.raises(ValueError, match=r"mask must have the shape of tokens \(1, 2\), got \(1, 3\)"):
        model(torch.tensor([[1, 2]]), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="lstm came without a tokenizer; set model.tokenizer"):
        model.tokenize(["a"])
    with pytest.raises(ValueError, match="has no target sequence"):
        model.tokenize(["a"], target=["b"])
    with pytest.raises(ValueError, match="generate takes a Transformer or an EncoderDecoder, got an LSTMLanguageModel"):
        generate(model, torch.tensor([[1]]), n_new=2)
    with pytest.raises(ValueError, match="n_layers must be a whole number of at least 1, got n_layers=0"):
        LSTMConfig(n_layers=0, d_model=4, d_vocab=5)
    with pytest.raises(ValueError, match="dropout is a probability below 1, got dropout=1"):
        LSTMConfig(n_layers=1, d_model=4, d_vocab=5, dropout=1)
    with pytest.raises(ValueError, match="cell must be one of lstm, rnn, got 'gru'"):
        LSTMConfig(n_layers=1, d_model=4, d_vocab=5, cell="gru")
    with pytest.raises(ValueError, match="unknown config field 'n_ctx': this version of prosect knows cell, d_model, d_vocab, dropout"):
        LSTMConfig.from_dict({"n_layers": 1, "d_model": 4, "d_vocab": 5, "n_ctx": 6})

"""What do statistics of long text cost, in time and memory? Run with `make benchmark`; prints a table, asserts the bounds that we promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.measuring import keep

pytestmark = pytest.mark.benchmark
ROOT = Path(__file__).parents[2]

SETUP = """
import gc, time, resource
import torch
from model import Transformer, TransformerConfig, load_model
from probes.stream import read_stream
from probes.statistics import AttentionStatistics

def status(key):
    line = next(line for line in open('/proc/self/status') if line.startswith(key))
    return int(line.split()[1]) / 2**20

def cost(f):
    gc.collect()
    open('/proc/self/clear_refs', 'w').write('5')  # the peak starts from here
    before, start = status('VmRSS'), time.process_time()
    f()
    return time.process_time() - start, status('VmHWM') - before

def forward(model, tokens):
    with torch.no_grad():
        state = model.start(tokens)
        for i in range(model.n_layers):
            state = model.step(state, i)

def product(model, n):
    c = model.config
    q, k = torch.randn(c.n_kv_heads, c.n_heads // c.n_kv_heads, n, c.d_head), torch.randn(c.n_kv_heads, n, c.d_head)
    for _ in range(c.n_layers):
        for i in range(0, n, 64):
            q[:, :, i : i + 64].flatten(1, 2) @ k[:, : i + 64].mT

def statistics(model, tokens, which):
    read_stream(model, [(tokens,)], [AttentionStatistics(which=which)], progress=False)

CHEAP = ('entropy', 'first', 'distance', 'previous')
ALL = AttentionStatistics().which
"""


def child(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", SETUP + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(x) for x in done.stdout.split()]


LONG = """
model = load_model('smollm2')
tokens = torch.randint(model.config.d_vocab, (1, 8192), generator=torch.Generator().manual_seed(0))
forward(model, tokens[:, :256])
cells = [lambda: forward(model, tokens), lambda: product(model, 8192), lambda: statistics(model, tokens, CHEAP), lambda: statistics(model, tokens, ALL)]
for cell in cells:
    print(*cost(cell))
"""


def test_smollm2_at_8192_tokens() -> None:
    figures = child(LONG)
    (forward, forward_gb), (product, _), (cheap, cheap_gb), (full, full_gb) = zip(figures[::2], figures[1::2], strict=True)
    base = forward + product
    keep(
        "long text 8192",
        f"SmolLM2, 8,192 random tokens (CPU seconds): a forward pass {forward:.0f} s, {forward_gb:.2f} GB above the model; one more score product {product:.0f} s. "
        f"Entropy, first, distance and previous token of all heads: {cheap:.0f} s, {cheap / base:.2f} × both (aimed at 1.5), {cheap_gb:.2f} GB. "
        f"All statistics: {full:.0f} s, {full / base:.2f} × both (aimed at 4), {full_gb:.2f} GB (aimed at 1.5).",
    )
    assert cheap <= 1.5 * base and full <= 4 * base
    assert cheap_gb <= 1.5 and full_gb <= 1.5


VERY_LONG = """
config = TransformerConfig(n_layers={n_layers}, d_model=576, n_heads=9, n_kv_heads=3, d_head=64, d_mlp=1536, d_vocab=49152, n_ctx=32768, positions='rotary',
                           norm='rms', gated=True, activation='silu', q_bias=False, k_bias=False, v_bias=False, attn_out_bias=False, mlp_bias=False)
model = Transformer(config)
tokens = torch.randint(config.d_vocab, (1, 32768), generator=torch.Generator().manual_seed(0))
print(*cost(lambda: statistics(model, tokens, CHEAP)), status('VmHWM'))
"""


def test_a_model_of_that_shape_at_32768_tokens() -> None:
    seconds, above, peak = child(VERY_LONG.format(n_layers=30))
    keep(
        "long text 32768",
        f"A random model of that shape, 30 blocks, 32,768 tokens, the same four quantities of all heads: {seconds / 60:.0f} CPU minutes, {above:.2f} GB above the model, {peak:.2f} GB in all.",
    )
    assert peak < 6

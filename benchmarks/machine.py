"""The machine: what it is, what it can compute at most, and what the model needs of that."""

from __future__ import annotations

import os
import platform
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What a faster product of matrices needs, by the names of Linux.
INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)

PACKAGES = (
    "emb-model-provider",
    "openvino",
    "nncf",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "langchain-core",
    "langchain-huggingface",
    "llama-index-core",
    "llama-index-embeddings-huggingface",
    "fastembed",
    "onnxruntime",
    "huggingface_hub",
    "numpy",
)


def describe() -> dict[str, Any]:
    """What a reader must know to compare figures of two runs."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in _cpu_info("flags", "Features").split()],
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _cpu_info(*fields: str) -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() in fields:
            return value.strip()
    return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def forward_flops(model: Any, lengths: list[int]) -> int:
    """Floating-point operations of the transformer for texts of these lengths, padding not counted.

    Per token: 2 for each weight of a linear layer, and 4 * layers * width * length for attention's products
    with the keys and with the values. Source: Chowdhery et al., PaLM, appendix B,
    https://arxiv.org/abs/2204.02311 (its 6N + 12LHQT is for training, three times the forward pass). The
    pooler is left out: no vector depends on it.

    Args:
        model: A SentenceTransformer around an encoder whose tokens attend to all others.
        lengths: Tokens of each text.
    """
    import torch
    from transformers import PreTrainedModel

    transformer = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    weights = sum(
        module.weight.numel()
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")
    )
    config = transformer.config
    attention = 4 * config.num_hidden_layers * config.hidden_size
    return sum(2 * weights * length + attention * length**2 for length in lengths)


def peak_flops(sizes: tuple[int, ...] = (1024, 2048), seconds: float = 1.0) -> dict[str, float]:
    """The most operations per second that a product of two square matrices reaches, by precision.

    The products are torch's, which has them from oneDNN and MKL on x86; the best of all repeats,
    `seconds` long for each size, counts. Those in int8 are integer operations.
    """
    import torch

    best: dict[str, float] = {}
    for size in sizes:
        numbers = torch.randn(size, size)
        whole = torch.randint(-127, 127, (size, size), dtype=torch.int8)
        products = {
            "fp32": (torch.mm, numbers),
            "bf16": (torch.mm, numbers.bfloat16()),
            "int8": (torch._int_mm, whole),
        }
        for precision, (product, matrix) in products.items():
            product(matrix, matrix)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                product(matrix, matrix)
                reached = 2 * size**3 / (time.perf_counter() - start)
                best[precision] = max(best.get(precision, 0.0), reached)
    return best

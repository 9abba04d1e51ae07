"""What one process measures of one system; it prints one line of JSON.

Imports little: a measured start is to be the system's, not the benchmark's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from systems import FRAMEWORKS, MAX_TOKENS, SYSTEMS, Embedder, System

CONCURRENT = 128
MIXED = 150
FIRST_TEXT = "How do I read and write compressed gzip files?"
HEARTBEAT = 0.001  # seconds between two beats of a loop that nothing holds up


@dataclass(frozen=True)
class Task:
    """What the processes of a run share.

    Attributes:
        model: The model's folder.
        cache: Where converted models are kept.
        oracle: The file of the vectors that sentence-transformers gives the passages.
        passages: For bulk.
        queries: At least CONCURRENT.
        started: `time.time()` right before this process was started.
    """

    model: Path
    cache: Path
    oracle: Path
    passages: list[str]
    queries: list[str]
    started: float

    def open(self, system: System) -> Embedder:
        """The system with the model loaded and warm."""
        embedder = system.open(self.model, self.cache)
        embedder.documents(self.passages[:8])
        embedder.query(FIRST_TEXT)
        return embedder


def first_vector(system: System, task: Task) -> dict[str, Any]:
    """Seconds from the start of the process to the first vector."""
    embedder = system.open(task.model, task.cache)
    embedder.query(FIRST_TEXT)
    return {"seconds": time.time() - task.started}


def bulk(system: System, task: Task) -> dict[str, Any]:
    """All passages in one call: passages per second, how exact they are, and the process' peak memory."""
    import numpy as np

    embedder = task.open(system)
    start = time.perf_counter()
    vectors = embedder.documents(task.passages)
    seconds = time.perf_counter() - start
    peak = _peak_memory()
    found, expected = np.asarray(vectors, dtype=np.float64), np.load(task.oracle).astype(np.float64)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    return {
        "seconds": seconds,
        "docs_per_s": len(task.passages) / seconds,
        "peak_mb": peak,
        "max_difference": float(np.abs(found - expected).max()),
        "min_cosine": float(cosines.min()),
    }


def mixed(system: System, task: Task) -> dict[str, Any]:
    """MIXED lists of all sizes with texts of all lengths, as a server gets them; memory must not pile up."""
    import random

    embedder = task.open(system)
    chance = random.Random(0)
    lists = [chance.choices(task.passages, k=chance.choice((1, 1, 2, 5, 10, 30))) for _ in range(MIXED)]
    lists = [[text[: chance.randint(20, max(20, len(text)))] for text in texts] for texts in lists]
    start = time.perf_counter()
    for texts in lists:
        embedder.documents(texts)
    seconds = time.perf_counter() - start
    return {"texts_per_s": sum(map(len, lists)) / seconds, "peak_mb": _peak_memory()}


def query(system: System, task: Task) -> dict[str, Any]:
    """One query after the other: milliseconds each."""
    import statistics

    embedder = task.open(system)
    for text in task.queries[:10]:
        embedder.query(text)
    times = []
    for text in task.queries[10:]:
        start = time.perf_counter()
        embedder.query(text)
        times.append((time.perf_counter() - start) * 1e3)
    return {"p50_ms": statistics.median(times), "p95_ms": statistics.quantiles(times, n=20)[-1]}


def concurrent(system: System, task: Task) -> dict[str, Any]:
    """CONCURRENT queries at once in one event loop: seconds, and how long the loop stood still meanwhile."""
    import asyncio

    embedder = task.open(system)
    aquery = embedder.aquery
    assert aquery is not None

    async def beat(delays: list[float]) -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(HEARTBEAT)
            delays.append(time.perf_counter() - start - HEARTBEAT)

    async def run() -> tuple[float, float]:
        await aquery(FIRST_TEXT)
        delays: list[float] = []
        beating = asyncio.create_task(beat(delays))
        await asyncio.sleep(0.05)
        delays.clear()
        start = time.perf_counter()
        await asyncio.gather(*(aquery(text) for text in task.queries[:CONCURRENT]))
        seconds = time.perf_counter() - start
        await asyncio.sleep(2 * HEARTBEAT)  # a beat that was held up to the end counts
        beating.cancel()
        return seconds, max(delays)

    seconds, stall = asyncio.run(run())
    return {"seconds": seconds, "stall_ms": stall * 1e3}


def import_time(system: System, _: Task) -> dict[str, Any]:
    """Seconds that importing the adapter takes once its framework is imported, and those of the framework."""
    assert system.framework is not None
    start = time.perf_counter()
    import_module(FRAMEWORKS[system.framework])
    imported = time.perf_counter()
    import_module(system.module)
    return {"seconds": time.perf_counter() - imported, "framework_s": imported - start}


def oracle(_: System, task: Task) -> dict[str, Any]:
    """Writes the vectors that all others are compared with; what the model must compute for them."""
    import numpy as np
    import torch
    from machine import forward_flops
    from sentence_transformers import SentenceTransformer

    torch.set_grad_enabled(False)
    model = SentenceTransformer(str(task.model), device="cpu")
    assert model.max_seq_length == MAX_TOKENS
    np.save(task.oracle, model.encode(task.passages, show_progress_bar=False))
    encoded = model.tokenizer(task.passages, truncation=True, max_length=MAX_TOKENS)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return {"tokens": sum(lengths), "flops": forward_flops(model, lengths)}


def peak(_: System, __: Task) -> dict[str, Any]:
    """The machine's own peak in each precision, in operations per second."""
    from machine import peak_flops

    return peak_flops()


def _peak_memory() -> float | None:
    """Of this process, in MB; None where the system does not tell.

    On Linux ru_maxrss is never less than the peak of the process that started this one; VmHWM is.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


MEASUREMENTS: dict[str, Callable[[System, Task], dict[str, Any]]] = {
    "start": first_vector,
    "cold": first_vector,
    "bulk": bulk,
    "mixed": mixed,
    "query": query,
    "concurrent": concurrent,
    "import": import_time,
}

# Done once, before the rounds; and once a round, of no system.
PREPARATIONS: dict[str, Callable[[System, Task], dict[str, Any]]] = {
    "oracle": oracle,
    "warm": first_vector,
    "peak": peak,
}


def applies(measurement: str, system: System) -> bool:
    """Whether the system has what is measured, and is not just like another in it."""
    if measurement == "cold":
        return system.ours
    if measurement == "mixed":
        return system.framework is None or (system.ours and system.framework == "langchain")
    if measurement == "concurrent":
        return system.framework is not None
    if measurement == "import":
        return system.framework is not None and system.precision == "fp32"
    return True


def work(system: str, measurement: str, task_file: str, started: str) -> None:
    """What a process started by speed.py does."""
    task = json.loads(Path(task_file).read_text("utf-8"))
    for name in ("model", "cache", "oracle"):
        task[name] = Path(task[name])
    measure = {**MEASUREMENTS, **PREPARATIONS}[measurement]
    values = measure(SYSTEMS[system], Task(**task, started=float(started)))
    print(json.dumps({**values, "imports_torch": "torch" in sys.modules}))


if __name__ == "__main__":
    work(*sys.argv[1:])

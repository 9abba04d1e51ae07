"""From what was measured to tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

from measurements import applies
from systems import BASELINE, SYSTEMS, Precision, System, peer

Rows = list[dict[str, Any]]
Spread = dict[str, float]  # min, median and max


@dataclass(frozen=True)
class Figure:
    """A figure that systems are compared by.

    Attributes:
        measurement: What measures it, and `key` under which name; see measurements.py.
        title: In tables.
        decimals: Shown of its values.
        more_is_better: Whether the larger value is the better one.
        against_peer: Whether the ratio is against the other adapter to the same framework, because
            sentence-transformers has no such thing.
        goals: Ratios that this project sets itself, by precision or framework.
        limits: The same as values that are not to be exceeded, where no ratio was set.
    """

    measurement: str
    key: str
    title: str
    decimals: int
    more_is_better: bool = False
    against_peer: bool = False
    goals: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    def baseline(self, system: System) -> tuple[str, str]:
        """The measurement and the system that the system is compared with."""
        name = peer(system) if self.against_peer else BASELINE
        return "start" if self.measurement == "cold" else self.measurement, name

    def goal(self, system: System, value: Spread | None, ratio: Spread | None) -> tuple[str, bool | None]:
        """What the system is to reach, "" for no goal; and whether it does, None where not measured."""
        for key in (system.precision, system.framework or "") if system.ours else ():
            if key in self.goals:
                met = ratio["median"] >= self.goals[key] if ratio else None
                return f"at least {self.goals[key]:.1f}", met
            if key in self.limits:
                met = value["median"] <= self.limits[key] if value else None
                return f"at most {self.limits[key]:g}", met
        return "", None


# The goals are times and sizes on a quiet machine of 2 cores with AVX-512, as ratios to what
# the peers took there.
FIGURES = (
    Figure(
        "start",
        "seconds",
        "Process start to first vector, s",
        2,
        goals=dict.fromkeys(("fp32", "bf16", "int8"), 6.0 / 0.6),
    ),
    Figure("cold", "seconds", "The same with an empty cache (the model is converted), s", 2),
    Figure(
        "bulk",
        "docs_per_s",
        "Bulk, passages per second",
        1,
        more_is_better=True,
        goals={"fp32": 1.5, "bf16": 2.6, "int8": 3.8},
    ),
    Figure("mixed", "texts_per_s", "150 lists of mixed sizes, texts per second", 1, more_is_better=True),
    Figure("query", "p50_ms", "One query, median, ms", 2, goals={"fp32": 9.2 / 3.2}),
    Figure(
        "concurrent",
        "seconds",
        "128 concurrent async queries, s",
        3,
        against_peer=True,
        goals={"fp32": 1.35 / 0.35},
    ),
    Figure(
        "concurrent",
        "stall_ms",
        "Longest stall of the event loop meanwhile, ms",
        1,
        against_peer=True,
        goals={"langchain": 12 / 10, "llamaindex": 43 / 10},
    ),
    Figure("bulk", "peak_mb", "Peak memory of the bulk process, MB", 0, goals={"fp32": 895 / 350}),
    Figure("mixed", "peak_mb", "Peak memory of the process with lists of mixed sizes, MB", 0),
    Figure(
        "import",
        "seconds",
        "Import of the adapter beyond its framework, s",
        3,
        against_peer=True,
        goals={"llamaindex": 5.4 / 0.1},
        limits={"langchain": 0.1},
    ),
    Figure("import", "framework_s", "Import of the framework alone, in every start, s", 2, against_peer=True),
)

# What a precision may cost: the largest difference of a component, or the smallest cosine of a row.
EXACT = {"fp32": ("max_difference", 1e-5), "bf16": ("min_cosine", 0.9999)}


def summarize(results: dict[str, Any]) -> dict[str, Any]:
    """What the tables say, as data: `figures`, `exactness`, `peak` and `share`."""
    rows, errors = results["rows"], results["errors"]
    return {
        "figures": [
            {"title": figure.title, "decimals": figure.decimals, "rows": _compare(figure, rows, errors)}
            for figure in FIGURES
            if any(row["measurement"] == figure.measurement for row in [*rows, *errors])
        ],
        "exactness": [_exactness(system, values) for system, values in _by_system(rows, "bulk")],
        "peak": _peak(rows),
        "share": [_share(system, values, rows, results) for system, values in _by_system(rows, "bulk")],
    }


def _by_round(rows: Rows, measurement: str, system: str, key: str) -> dict[int, float]:
    return {
        row["round"]: row["values"][key]
        for row in rows
        if (row["measurement"], row["system"]) == (measurement, system) and row["values"].get(key) is not None
    }


def _by_system(rows: Rows, measurement: str) -> Iterable[tuple[System, Rows]]:
    for system in SYSTEMS.values():
        values = [r for r in rows if (r["measurement"], r["system"]) == (measurement, system.name)]
        if values:
            yield system, values


def _compare(figure: Figure, rows: Rows, errors: Rows) -> Rows:
    compared = []
    for system in SYSTEMS.values():
        values = _by_round(rows, figure.measurement, system.name, figure.key)
        failed = any(
            error["system"] == system.name and error["measurement"] in (figure.measurement, "all")
            for error in errors
        )
        if not (values or failed) or not applies(figure.measurement, system):
            continue
        measurement, against = figure.baseline(system)
        base = _by_round(rows, measurement, against, figure.key)
        ratio = _spread(
            values[n] / base[n] if figure.more_is_better else base[n] / values[n]
            for n in values.keys() & base.keys()
        )
        value = _spread(values.values())
        goal, met = figure.goal(system, value, ratio)
        on_torch = _on_torch(figure.measurement, system, rows)
        compared.append(
            {
                "system": system.name,
                "ours": system.ours,
                "values": value,
                "ratio": ratio,
                "against": against,
                "goal": goal,
                "met": False if on_torch and met else met,
                "note": "failed" if failed else "on torch, not converted" if on_torch else "",
            }
        )
    return compared


def _on_torch(measurement: str, system: System, rows: Rows) -> bool:
    """Whether our model fell back to torch. Once it is converted, nothing imports torch."""
    if not system.ours or measurement == "cold":
        return False
    return any(_by_round(rows, measurement, system.name, "imports_torch").values())


def _spread(values: Iterable[float]) -> Spread | None:
    numbers = sorted(values)
    if not numbers:
        return None
    return {"min": numbers[0], "median": statistics.median(numbers), "max": numbers[-1]}


def _exactness(system: System, rows: Rows) -> dict[str, Any]:
    worst = {
        "max_difference": max(row["values"]["max_difference"] for row in rows),
        "min_cosine": min(row["values"]["min_cosine"] for row in rows),
    }
    key, bound = EXACT.get(system.precision, (None, 0.0))
    met = None
    if key and system.ours:
        met = worst[key] <= bound if key == "max_difference" else worst[key] >= bound
    return {"system": system.name, **worst, "met": met}


def _peak(rows: Rows) -> dict[str, float]:
    """The most that any round reached: what the machine can do."""
    peak: dict[str, float] = {}
    for row in rows:
        if row["measurement"] == "peak":
            for precision in get_args(Precision):
                peak[precision] = max(row["values"][precision], peak.get(precision, 0.0))
    return peak


def _share(system: System, values: Rows, rows: Rows, results: dict[str, Any]) -> dict[str, Any]:
    seconds = statistics.median(row["values"]["seconds"] for row in values)
    reached = results["needed"]["flops"] / seconds
    peak = _peak(rows).get(system.precision)
    return {"system": system.name, "flops": reached, "share": peak and reached / peak}


def markdown(results: dict[str, Any], summary: dict[str, Any]) -> str:
    """The tables."""
    parts = [_about(results)]
    for figure in summary["figures"]:
        parts.append(f"### {figure['title']}\n\n" + _figure_table(figure))
    parts.append("### Difference to the vectors of sentence-transformers\n\n" + _exactness_table(summary))
    parts.append("### Distance to the machine's peak\n\n" + _share_table(results, summary))
    if results["errors"]:
        parts.append("### What failed\n\n" + _failures(results["errors"]))
    return "\n\n".join(parts) + "\n"


def _about(results: dict[str, Any]) -> str:
    about = results["about"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items() if version)
    tokens = results["needed"]["tokens"] / about["passages"]
    return "\n".join(
        [
            f"`{about['command']}`, {about['date']}, {about['rounds']} round(s)\n",
            f"- machine: {about['cpu']}, {about['threads']} threads, {', '.join(about['instructions'])}; "
            f"{about['system']}; load {about['load_before']} before, {about['load_after']} after",
            f"- texts: {about['passages']} passages of {about['corpus']}, {tokens:.0f} tokens on average",
            f"- model: all-MiniLM-L6-v2, at most 256 tokens of a text; Python {about['python']}, {packages}",
            "\nA ratio above 1 is better; it is the median (least to most) of the ratios of each round.",
        ]
    )


def _figure_table(figure: dict[str, Any]) -> str:
    decimals = figure["decimals"]
    lines = ["| system | min | median | max | ratio | against | goal |", "|---|---|---|---|---|---|---|"]
    for row in figure["rows"]:
        values = row["values"]
        cells = [f"{values[k]:.{decimals}f}" for k in ("min", "median", "max")] if values else ["-"] * 3
        ratio = row["ratio"]
        shown = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "-"
        goal = row["goal"] and f"{row['goal']}: {_met(row['met'])}"
        name = f"**{row['system']}**" if row["ours"] else row["system"]
        note = f" ({row['note']})" if row["note"] else ""
        lines.append(f"| {name}{note} | {' | '.join(cells)} | {shown} | {row['against']} | {goal} |")
    return "\n".join(lines)


def _met(met: bool | None) -> str:
    return {True: "met", False: "not met", None: "not measured"}[met]


def _exactness_table(summary: dict[str, Any]) -> str:
    lines = ["| system | largest difference | smallest cosine | goal |", "|---|---|---|---|"]
    for row in summary["exactness"]:
        goal = "" if row["met"] is None else _met(row["met"])
        lines.append(f"| {row['system']} | {row['max_difference']:.1e} | {row['min_cosine']:.6f} | {goal} |")
    return "\n".join(lines)


def _share_table(results: dict[str, Any], summary: dict[str, Any]) -> str:
    peak = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in summary["peak"].items())
    lines = [
        f"A product of two large matrices reaches, in 10^9 operations per second: {peak or 'not measured'}. "
        f"The passages need {results['needed']['flops'] / 1e9:.0f} * 10^9 operations.\n",
        "| system | 10^9 operations per second | share of the peak | left |",
        "|---|---|---|---|",
    ]
    for row in summary["share"]:
        share = row["share"]
        cells = f"{share:.0%} | {1 - share:.0%}" if share else "- | -"
        lines.append(f"| {row['system']} | {row['flops'] / 1e9:.0f} | {cells} |")
    return "\n".join(lines)


def _failures(errors: Rows) -> str:
    """Each reason once."""
    reasons: dict[str, list[str]] = {}
    for error in errors:
        reasons.setdefault(error["error"], []).append(f"{error['system']}: {error['measurement']}")
    return "\n".join(f"- {', '.join(where)}: `{reason}`" for reason, where in reasons.items())

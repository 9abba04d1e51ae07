"""The ratios as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OURS, PEER = "#1f6f8b", "#b8b8b8"


def draw(summary: dict[str, Any], about: dict[str, Any], path: Path) -> None:
    """One panel for each figure: how many times better than the baseline each system is.

    A bar is the median of the rounds, its line goes from the least to the most.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figures = [figure for figure in summary["figures"] if any(row["ratio"] for row in figure["rows"])]
    if not figures:
        return
    columns = min(2, len(figures))
    lines = -(-len(figures) // columns)
    picture, axes = pyplot.subplots(lines, columns, figsize=(6.5 * columns, 2.7 * lines), squeeze=False)
    for axis in axes.flat[len(figures) :]:
        axis.axis("off")
    for axis, figure in zip(axes.flat, figures, strict=False):
        _panel(axis, figure)
    picture.suptitle(
        f"Times better than sentence-transformers, or than the other adapter (*)\n"
        f"{about['cpu']}, {about['threads']} threads, {about['date']}",
        fontsize=10,
    )
    picture.tight_layout()
    picture.savefig(path, dpi=110)
    pyplot.close(picture)


def _panel(axis: Any, figure: dict[str, Any]) -> None:
    rows = [row for row in reversed(figure["rows"]) if row["ratio"]]
    medians = [row["ratio"]["median"] for row in rows]
    spread = [
        [row["ratio"]["median"] - row["ratio"]["min"] for row in rows],
        [row["ratio"]["max"] - row["ratio"]["median"] for row in rows],
    ]
    names = [row["system"] for row in rows]
    colors = [OURS if row["ours"] else PEER for row in rows]
    axis.barh(names, medians, xerr=spread, color=colors, ecolor="#555555", height=0.7)
    for position, (median, row) in enumerate(zip(medians, rows, strict=True)):
        axis.text(row["ratio"]["max"], position, f"  {median:.2g}", va="center", fontsize=7)
    axis.axvline(1, color="black", linewidth=0.8)
    if max(medians) > 20:
        axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    star = " *" if any(row["against"] != "sentence-transformers" for row in rows) else ""
    axis.set_title(figure["title"] + star, fontsize=8, loc="left")

"""Plots as inline SVG: Okabe-Ito colours, a marker besides each colour."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

STYLE: dict[str, tuple[str, str, str]] = {
    "ranker": ("#D55E00", "o", "ranker"),
    "popularity": ("#56B4E9", "s", "popularity"),
    "item_mean": ("#56B4E9", "<", "item mean"),
    "member_mean": ("#56B4E9", ">", "member mean"),
    "lightgbm": ("#009E73", "^", "LightGBM"),
    "dcn_v2": ("#0072B2", "P", "DCN-v2"),
    "dcn_v2_text": ("#0072B2", "X", "DCN-v2 with text"),
    "din": ("#E69F00", "d", "DIN"),
    "sequence": ("#E69F00", "p", "sequence model"),
    "oracle_without_history": ("#CC79A7", "v", "oracle without history"),
    "oracle": ("#000000", "D", "oracle"),
}
"""Colour, marker and label. Kinds of models share a colour; no two share colour and marker."""
PLOTTED = ("ranker", "lightgbm", "dcn_v2", "din", "oracle_without_history", "oracle")
"""What plots show; tables show every scorer."""


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches and its axes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "brewhouse"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_svg(figure: Any) -> str:
    """The figure as inline SVG, the same bytes for the same figure."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def dots(
    rows: Sequence[tuple[str, Mapping[str, float | None]]],
    bands: Mapping[str, tuple[float | None, float | None]],
) -> str:
    """AUC of every scorer, one line a task; a bar is the ranker's interval."""
    figure, axes = new_figure(8, 1.2 + 0.24 * len(rows))
    for y, (name, values) in enumerate(reversed(rows)):
        low, high = bands.get(name, (None, None))
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=STYLE["ranker"][0], linewidth=2, alpha=0.5)
        for scorer, value in values.items():
            if value is not None and scorer in STYLE:
                colour, marker, _ = STYLE[scorer]
                axes.plot(value, y, marker=marker, color=colour, markersize=5, linestyle="")
    axes.axvline(0.5, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=8)
    axes.set_xlabel("AUC (95 % interval of the ranker)")
    _legend(axes, [s for s in STYLE if any(s in v for _, v in rows)])
    return to_svg(figure)


def forest(rows: Sequence[tuple[str, float, float, float, float | None]], xlabel: str) -> str:
    """Differences with intervals, one line each; a tick marks minus the margin.

    Args:
        rows: Name, value, low, high and margin.
        xlabel: What is subtracted from what.
    """
    figure, axes = new_figure(8, 1.2 + 0.24 * len(rows))
    for y, (_, value, low, high, margin) in enumerate(reversed(rows)):
        short = margin is not None and high < -margin
        kept = margin is None or low >= -margin
        colour = "#B00020" if short else "#0072B2" if kept else "#777777"
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        marker = "X" if short else "o" if kept else "D"
        axes.plot(value, y, marker=marker, color=colour, markersize=6, linestyle="")
        if margin is not None:
            axes.plot([-margin, -margin], [y - 0.4, y + 0.4], color="#000000", linewidth=1.2)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)], fontsize=8)
    axes.set_xlabel(xlabel)
    return to_svg(figure)


def lines(xs: Sequence[str], series: Mapping[str, Sequence[float | None]], xlabel: str) -> str:
    """AUC along an ordered category."""
    figure, axes = new_figure(7, 3.4)
    for scorer, values in series.items():
        if scorer not in STYLE:
            continue
        colour, marker, label = STYLE[scorer]
        known = [(i, v) for i, v in enumerate(values) if v is not None]
        if not known:
            continue
        axes.plot([i for i, _ in known], [v for _, v in known], color=colour, marker=marker)
        axes.annotate(
            label,
            known[-1],
            xytext=(6, 0),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            va="center",
        )
    axes.set_xticks(range(len(xs)), xs)
    axes.set_xlim(-0.3, len(xs) + 0.6)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("mean AUC")
    return to_svg(figure)


def calibration(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Share of positives against mean prediction."""
    figure, axes = new_figure(4.5, 4)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for scorer, points in curves.items():
        colour, marker, _ = STYLE[scorer]
        axes.plot(
            [p[0] for p in points],
            [p[1] for p in points],
            color=colour,
            marker=marker,
            markersize=4,
            linestyle="",
        )
    _legend(axes, list(curves))
    axes.set_xlabel("mean predicted probability")
    axes.set_ylabel("share of positives")
    return to_svg(figure)


def _legend(axes: Any, scorers: Sequence[str]) -> None:
    for scorer in scorers:
        colour, marker, label = STYLE[scorer]
        axes.plot([], [], marker=marker, color=colour, linestyle="", label=label)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=8, frameon=False)

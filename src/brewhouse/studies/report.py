"""Findings as one self-contained page, and as Markdown."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from brewhouse.files import write_text
from brewhouse.reporting.plots import new_figure, to_svg
from brewhouse.studies.findings import Finding
from brewhouse.studies.plan import StudyPreset

_COLOURS = ("#D55E00", "#0072B2", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


def write_page(findings: list[Finding], preset: StudyPreset, path: Path) -> None:
    """One HTML page: figure, table, sentence and the paper's expectation of each study."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>Brewhouse studies: {escape(preset.name)}</title><style>{_STYLE}</style></head>",
        f"<body><main><h1>Studies, preset {escape(preset.name)}</h1>",
    ]
    for one in findings:
        head = "".join(f'<th scope="col">{escape(c)}</th>' for c in one.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in one.rows
        )
        parts += [
            f"<h2>{escape(one.title)}</h2>",
            f"<p>{escape(one.sentence)}</p>",
            f"<figure>{figure(one)}<figcaption>Bars are 95 % intervals, members drawn."
            "</figcaption></figure>",
            f"<table><tr>{head}</tr>{body}</table>",
            f"<p><strong>The paper:</strong> {escape(one.paper)}. {escape(one.agrees)}</p>",
        ]
    write_text(path, "\n".join([*parts, "</main></body></html>"]) + "\n")


def write_table(findings: list[Finding], preset: StudyPreset, path: Path) -> None:
    """The same without figures, for the docs."""
    lines = []
    for one in findings:
        lines += [
            f"## {one.title}",
            "",
            one.sentence,
            "",
            "| " + " | ".join(one.columns) + " |",
            "|" + "---|" * len(one.columns),
            *("| " + " | ".join(row) + " |" for row in one.rows),
            "",
            f"The paper: {one.paper}. **{one.agrees}**",
            "",
        ]
    write_text(path, "\n".join(lines))


def figure(finding: Finding) -> str:
    """Lines over the points, with intervals, as SVG."""
    canvas, axes = new_figure(7, 3.6)
    xs = np.arange(len(finding.points))
    for number, line in enumerate(finding.series):
        colour, marker = _COLOURS[number % 4], _MARKERS[number % 4]
        values = np.array(line.values)
        shift = 0.06 * (number - (len(finding.series) - 1) / 2)
        options: dict[str, Any] = {"color": colour, "marker": marker, "label": line.name}
        axes.plot(xs + shift, values, **options)
        if line.low:
            axes.vlines(xs + shift, line.low, line.high, color=colour, alpha=0.5)
    axes.set_xticks(xs, finding.points)
    axes.set_xlabel(finding.xlabel)
    axes.set_ylabel(finding.ylabel)
    if len(finding.series) > 1:
        axes.legend(fontsize=8, frameon=False)
    return to_svg(canvas)

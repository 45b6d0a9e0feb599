"""How models age, on one page: heat map of age and quarter, decay curves, when a policy fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path

import numpy as np

from brewhouse.drift.decay import Decay
from brewhouse.drift.policy import DriftPolicy
from brewhouse.files import write_text
from brewhouse.reporting.plots import new_figure, to_svg

_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .4rem; border: 1px solid #ddd; }
th:first-child { text-align: left; }
.wide { overflow-x: auto; } svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Mean AUC of one scorer of one model in one quarter; None where a quarter tells nothing.

    Attributes:
        first: The same of the model's first quarter, over the same tasks.
    """

    model: str
    scorer: str
    start: date
    age_weeks: int
    auc: float | None
    error: float | None
    first: float | None
    rows: int


def write_ageing_page(
    cells: Sequence[Cell],
    decays: Mapping[str, Decay],
    fired: Mapping[str, Sequence[date]],
    policy: DriftPolicy,
    path: Path,
    *,
    title: str,
) -> None:
    """Render the page.

    Args:
        cells: Of all models, scorers and quarters.
        decays: Curve of each model with fresh history.
        fired: Days on which the policy would have ordered a retraining.
        policy: That was replayed.
        path: File to write.
        title: Domain.
    """
    scorers = list(dict.fromkeys(cell.scorer for cell in cells))
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>Ageing: {escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>How models of {escape(title)} age</h1>",
        "<p>One line a model, named by the day its training ended; one column a quarter. "
        "Mean AUC over tasks with its standard error over members; darker is better.</p>",
    ]
    for scorer in scorers:
        parts += [f"<h2>{escape(scorer)}</h2>", heat_map([c for c in cells if c.scorer == scorer])]
    parts += [
        "<h2>Against age</h2>",
        f"<figure>{age_figure(cells, scorers)}<figcaption>Mean over models of the AUC less that "
        "of the model's own first quarter: how much a scorer loses as it ages."
        "</figcaption></figure>",
        f"<h2>Policy {escape(policy.key)} on these quarters</h2><ul>",
        *(f"<li>{escape(told)}</li>" for told in sentences(decays, fired, policy)),
        "</ul></main></body></html>",
    ]
    write_text(path, "\n".join(parts) + "\n")


def heat_map(cells: Sequence[Cell]) -> str:
    """A table whose cells are shaded by AUC; numbers stand in them."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    quarters = sorted({_quarter(cell.start) for cell in cells})
    known = {(cell.model, _quarter(cell.start)): cell for cell in cells}
    values = [cell.auc for cell in cells if cell.auc is not None]
    low, high = min(values, default=0.5), max(values, default=1.0)
    head = "".join(f'<th scope="col">{q}</th>' for q in quarters)
    rows = []
    for model in models:
        row = []
        for quarter in quarters:
            cell = known.get((model, quarter))
            if cell is None or cell.auc is None:
                row.append("<td></td>")
                continue
            shade = (cell.auc - low) / max(high - low, 1e-9)
            blue = f"rgb({int(255 - 140 * shade)},{int(255 - 70 * shade)},255)"
            error = f" ± {cell.error:.3f}" if cell.error is not None else ""
            told = f"{cell.age_weeks} weeks old, {cell.rows:,} rows"
            row.append(f'<td style="background:{blue}" title="{told}">{cell.auc:.3f}{error}</td>')
        rows.append(f'<tr><th scope="row">{escape(model)}</th>{"".join(row)}</tr>')
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Heat map"><table>'
        f'<tr><th scope="col">model</th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _quarter(day: date) -> str:
    return f"{day.year}-Q{(day.month + 2) // 3}"


def losses(cells: Sequence[Cell], scorer: str) -> dict[int, tuple[float, int]]:
    """By age in weeks: mean over models of AUC less that of the first quarter, and models."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        if cell.scorer == scorer and cell.auc is not None and cell.first is not None:
            found.setdefault(cell.age_weeks, []).append(cell.auc - cell.first)
    return {age: (float(np.mean(v)), len(v)) for age, v in sorted(found.items())}


def age_figure(cells: Sequence[Cell], scorers: Sequence[str]) -> str:
    """Loss against age, a line a scorer."""
    figure, axes = new_figure(8, 3.4)
    for number, scorer in enumerate(scorers):
        points = losses(cells, scorer)
        axes.plot(
            list(points),
            [value for value, _ in points.values()],
            marker="osD^v"[number % 5],
            color=_COLOURS[number % len(_COLOURS)],
            label=scorer,
        )
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel("age in weeks")
    axes.set_ylabel("mean AUC less that of the first quarter")
    axes.legend(fontsize=8, frameon=False)
    return to_svg(figure)


def sentences(
    decays: Mapping[str, Decay], fired: Mapping[str, Sequence[date]], policy: DriftPolicy
) -> list[str]:
    """Decay, forecast and retrainings of each model, in words."""
    out = []
    for model, days in fired.items():
        told = f"Model of {model}: "
        curve = decays.get(model)
        if curve is not None:
            low, high = curve.slope_interval
            told += f"{1000 * curve.slope:+.2f} per 1000 a week ({1000 * low:+.2f} to "
            told += f"{1000 * high:+.2f}); "
            crossing = curve.crossing(curve.fresh - policy.economics.margin)
            if crossing.age is None:
                told += "no decay, so that the gate's margin is never crossed; "
            else:
                latest = "never" if crossing.latest is None else f"week {crossing.latest:.0f}"
                told += f"margin {policy.economics.margin:g} crossed in week {crossing.age:.0f} "
                told += f"(week {crossing.earliest or 0:.0f} to {latest}); "
        told += f"fires {', '.join(str(d) for d in days)}." if days else "never fires."
        out.append(told)
    return out

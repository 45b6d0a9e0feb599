"""From evaluations to what a study found: a table, a sentence, the paper's figures beside them.

The paper is 360Brew (arXiv:2501.16450); its figures name 43 to 157 billion tokens, 8 to 65 thousand
tokens of context and a production model of its own. Ours are small and simulated: shapes compare,
numbers do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from brewhouse.errors import DataError
from brewhouse.evaluation.compare import Reference
from brewhouse.evaluation.judge import RANKER
from brewhouse.evaluation.resampling import interval
from brewhouse.studies.means import Evaluated, Mean, Shift, evaluation, mean_auc
from brewhouse.studies.plan import StudyName, StudyPreset

_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a figure: values over the points, with intervals where there are any."""

    name: str
    values: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one study found."""

    study: StudyName
    title: str
    points: list[str]
    xlabel: str
    ylabel: str
    series: list[Series]
    columns: list[str]
    rows: list[list[str]]
    sentence: str
    paper: str
    agrees: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def conclude(study: StudyName, preset: StudyPreset, results: Evaluated) -> Finding:
    """What the evaluations say.

    Raises:
        DataError: An evaluation that the study needs is missing.
    """
    kinds: dict[StudyName, Callable[[StudyPreset, Evaluated], Finding]] = {
        "data": _data,
        "model": _model,
        "history": _history,
        "out_of_domain": _out_of_domain,
        "cold_start": _cold_start,
        "temporal": _temporal,
    }
    return kinds[study](preset, results)


def _data(p: StudyPreset, results: Evaluated) -> Finding:
    gaps, rows, names, means = [], [], [], []
    for tokens in sorted(p.data.tokens):
        found = evaluation(results, f"data-{tokens}")
        ours, theirs = (mean_auc(found.tasks, s) for s in (RANKER, found.production))
        gap = ours.percent_over(theirs)
        gaps.append(gap)
        means.append(ours)
        names.append(_short(tokens))
        rows.append([f"{tokens:,}", f"{ours.value:.3f}", f"{theirs.value:.3f}", _percent(gap)])
    values = [g[0] for g in gaps]
    gained = means[-1].minus(means[0])
    crosses = gaps[0][2] < 0 <= values[-1]
    return Finding(
        study="data",
        title="Data scaling (Figure 2)",
        points=names,
        xlabel="fine-tuning tokens",
        ylabel="gap to production, % of AUC",
        series=[_series("ranker over production", gaps)],
        columns=["tokens", "ranker", "production", "gap"],
        rows=rows,
        sentence=(
            f"From {names[0]} to {names[-1]} tokens the gap to production goes from "
            f"{values[0]:+.1f} % to {values[-1]:+.1f} %; the ranker's mean AUC changes by {gained}."
        ),
        paper="-13.5, -1.3, 0.0, +2.5, +3.5 % at 43, 124, 133, 150, 157 B tokens",
        agrees=_told(
            gained.sign,
            up="The gap closes as data grows"
            + (" and crosses zero, as in the paper." if crosses else ", but does not cross zero."),
            none="The change is within the noise: this study does not show the paper's scaling.",
            down="More data makes it worse, unlike the paper.",
        ),
    )


def _model(p: StudyPreset, results: Evaluated) -> Finding:
    points, rows = [], []
    found = {size: evaluation(results, f"model-{size}") for size in p.model.sizes}
    means = {size: mean_auc(one.tasks, RANKER) for size, one in found.items()}
    for size, one in found.items():
        ours = means[size]
        points.append((ours.value, *interval(ours.draws_R)))
        took = one.model.get("actual", {})
        rows.append(
            [
                size,
                f"{one.model['parameters']:,}",
                f"{ours.value:.3f} ({points[-1][1]:.3f} to {points[-1][2]:.3f})",
                f"{took.get('tokens_per_s', 0):,.0f}",
            ]
        )
    values = [v for v, _, _ in points]
    text = "; ".join(
        f"{size} against its dense namesake {means[size].minus(means[f'{size}-dense'])}"
        for size in p.model.sizes
        if f"{size}-dense" in means
    )
    gained = means[p.model.sizes[-1]].minus(means[p.model.sizes[0]])
    return Finding(
        study="model",
        title="Model scaling (Figure 3)",
        points=list(p.model.sizes),
        xlabel="size, from scratch on the same tokens",
        ylabel="mean AUC, T1",
        series=[_series("ranker", points)],
        columns=["size", "parameters", "mean AUC, T1", "tokens/s in training"],
        rows=rows,
        sentence=f"From {p.model.sizes[0]} to {p.model.sizes[-1]} mean AUC goes from "
        f"{values[0]:.3f} to {values[-1]:.3f}, {gained}" + (f"; {text}." if text else "."),
        paper="larger models are better on the same data: Mixtral 8x22B over 8x7B over 7B",
        agrees=_told(
            gained.sign,
            up="The largest is better than the smallest, as in the paper.",
            none="No size is better than another beyond the noise at this budget.",
            down="The largest is worse than the smallest at this budget, unlike the paper.",
        ),
    )


def _history(p: StudyPreset, results: Evaluated) -> Finding:
    events = sorted(p.history.events)
    lines, falls, rows = [], [], [[str(e)] for e in events]
    for label, title in (
        ("long", "trained on whole histories"),
        ("short", "on short ones"),
    ):
        means = [
            mean_auc(evaluation(results, f"history-{e}-{label}").tasks, RANKER) for e in events
        ]
        first = means[0]
        relative = [tuple(100 + v for v in m.percent_over(first)) for m in means]
        lines.append(Series(name=title, **_split(relative)))
        best = max(means, key=lambda m: m.value)
        falls.append(means[-1].minus(best))
        for row, mean, one in zip(rows, means, relative, strict=True):
            row.append(f"{mean.value:.3f} ({one[0]:.1f})")
    peaks = {line.name: int(np.argmax(line.values)) for line in lines}
    long, short = lines
    at = peaks[long.name]
    return Finding(
        study="history",
        title="History and context (Figure 4)",
        points=[str(e) for e in events],
        xlabel="most events told",
        ylabel="AUC, no history = 100",
        series=lines,
        columns=["events", *(f"{line.name}: AUC (relative)" for line in lines)],
        rows=rows,
        sentence=(
            f"AUC is highest with {events[at]} events ({long.values[at]:.1f} where no history is "
            f"100); trained on short trunks with {events[peaks[short.name]]} "
            f"({short.values[peaks[short.name]]:.1f}). At {events[-1]} events AUC differs from the "
            f"best by {falls[0]}, trained on short ones by {falls[1]}."
        ),
        paper="100 at 8K tokens of context, 102.3 at 16K, 103.6 at 33 to 41K, 98.6 at 65K",
        agrees="More history helps"
        + _told(
            falls[0].sign,
            up="",
            none=" and does no harm up to the longest asked, unlike the paper's fall",
            down=" up to a peak beyond which it falls, as in the paper",
        )
        + _told(
            falls[1].sign,
            up="",
            none="; what was trained short does not fall off beyond the noise.",
            down="; what was trained short falls off on long histories, as in the paper.",
        ),
    )


def _out_of_domain(p: StudyPreset, results: Evaluated) -> Finding:
    found = evaluation(results, p.full)
    reference = Reference(found, None, "production")
    by_surface: dict[str, list[tuple[float, np.ndarray]]] = {}
    for task in found.tasks:
        gap = reference.gap(task, "auc") if task.tier == "T2" else None
        if gap:
            by_surface.setdefault(task.surface, []).append((gap.value, gap.draws_R))
    points, rows, better = [], [], 0
    for surface, parts in by_surface.items():
        value = float(np.mean([v for v, _ in parts]))
        low, high = interval(np.mean([d for _, d in parts], axis=0))
        points.append((value, low, high))
        better += low > 0
        rows.append([surface, str(len(parts)), f"{value:+.3f} ({low:+.3f} to {high:+.3f})"])
    if not rows:
        msg = "no T2 task has both the ranker and production; ask more test sessions"
        raise DataError(msg)
    return Finding(
        study="out_of_domain",
        title="Surfaces never seen (Figure 5)",
        points=list(by_surface),
        xlabel="surface absent from training",
        ylabel="AUC, ranker minus production",
        series=[_series("ranker minus production", points)],
        columns=["surface", "tasks", "difference of mean AUC"],
        rows=rows,
        sentence=f"Zero-shot, the ranker is ahead of production, which is trained on the surface, "
        f"beyond the noise on {better} of {len(rows)} surfaces.",
        paper="better than production on 3 of 4 T2 tasks",
        agrees="As in the paper, it is ahead on most."
        if better * 2 > len(rows)
        else "Unlike the paper, it is behind on most.",
    )


def _cold_start(p: StudyPreset, results: Evaluated) -> Finding:
    found = evaluation(results, p.full)
    points, rows, names = [], [], []
    for cap in sorted(p.cold):
        tasks = found.capped.get(cap, [])
        ours, theirs = (mean_auc(tasks, s) for s in (RANKER, found.production))
        gap = ours.percent_over(theirs)
        points.append(gap)
        names.append(str(cap))
        n = sum(t.n for t in tasks if t.tier == "T1")
        rows.append([str(cap), f"{n:,}", f"{ours.value:.3f}", f"{theirs.value:.3f}", _percent(gap)])
    values = [v for v, _, _ in points]
    return Finding(
        study="cold_start",
        title="Cold start (Figure 6)",
        points=names,
        xlabel="most known interactions of a member",
        ylabel="over production, % of AUC",
        series=[_series("ranker over production", points)],
        columns=["at most", "rows", "ranker", "production", "over production"],
        rows=rows,
        sentence="Over production by "
        + ", ".join(f"{v:+.1f} % at most {n}" for v, n in zip(values, names, strict=True))
        + " interactions.",
        paper="+6.6, +3.7, +2.4 % at most 5, 10, 100 interactions",
        agrees="The fewer interactions, the larger the lead, as in the paper."
        if values == sorted(values, reverse=True) and points[0][1] > 0
        else "The lead is not largest for the newest members, unlike the paper.",
    )


def _temporal(p: StudyPreset, results: Evaluated) -> Finding:
    weeks = sorted(p.horizons_weeks)
    lines, ends, rows = [], {}, [[str(w)] for w in weeks]
    for mode, name in (("fresh", p.full), ("frozen", "temporal-frozen")):
        found = evaluation(results, name)
        for scorer, label in ((RANKER, "ranker"), (found.production, "production")):
            means = [mean_auc(found.tasks, scorer, weeks=w) for w in weeks]
            drops = [m.percent_over(means[0]) for m in means]
            lines.append(Series(name=f"{label}, {mode} history", **_split(drops)))
            ends[label, mode] = (means[0], means[-1])
            for row, mean, drop in zip(rows, means, drops, strict=True):
                row.append(f"{mean.value:.3f} ({drop[0]:+.2f} %)")
    by_name = {line.name: line.values[-1] for line in lines}
    kept = _lead_kept(ends["ranker", "fresh"], ends["production", "fresh"])
    return Finding(
        study="temporal",
        title="Ageing (Figure 7)",
        points=[str(w) for w in weeks],
        xlabel="weeks after training",
        ylabel="AUC against week 0, %",
        series=lines,
        columns=["weeks", *(line.name for line in lines)],
        rows=rows,
        sentence=f"After {weeks[-1]} weeks: "
        + ", ".join(f"{name} {value:+.2f} %" for name, value in by_name.items())
        + f". With fresh history the ranker's lead over production changes by {kept}.",
        paper="a drop of 0.28 and 0.44 % against 0.91 and 1.15 % for production",
        agrees=_told(
            kept.sign,
            up="The ranker with fresh history ages more slowly than production, as in the paper.",
            none="Neither ages faster than the other beyond the noise, where the paper's does.",
            down="The ranker ages faster than production here, unlike the paper.",
        ),
    )


def _lead_kept(ours: tuple[Mean, Mean], theirs: tuple[Mean, Mean]) -> Shift:
    """By how much the lead over production grew from the first horizon to the last."""
    before, after = (o.draws_R - t.draws_R for o, t in zip(ours, theirs, strict=True))
    low, high = interval(after - before)
    values = [o.value - t.value for o, t in zip(ours, theirs, strict=True)]
    return Shift(value=values[1] - values[0], low=low, high=high)


def _told(sign: int, *, up: str, none: str, down: str) -> str:
    return {1: up, 0: none, -1: down}[sign]


def _series(name: str, points: list[tuple[float, float, float]]) -> Series:
    return Series(name=name, **_split(points))


def _split(points: list[Any]) -> dict[str, list[float]]:
    return {
        "values": [float(p[0]) for p in points],
        "low": [float(p[1]) for p in points],
        "high": [float(p[2]) for p in points],
    }


def _percent(gap: tuple[float, float, float]) -> str:
    return f"{gap[0]:+.1f} % ({gap[1]:+.1f} to {gap[2]:+.1f})"


def _short(tokens: int) -> str:
    return f"{tokens / _MILLION:g}M" if tokens >= 100_000 else f"{tokens:,}"

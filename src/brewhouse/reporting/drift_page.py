"""The monitor's page: one self-contained HTML file that on-call reads first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup as Html

from brewhouse.drift.decay import Decay
from brewhouse.drift.incidents import Incident
from brewhouse.drift.policy import DriftPolicy
from brewhouse.drift.replay import AUC, WEEK, decay_of
from brewhouse.drift.signals import Window
from brewhouse.files import write_text
from brewhouse.reporting.plots import new_figure, to_svg

_OURS, _THEIRS = "#D55E00", "#0072B2"


@dataclass(frozen=True, kw_only=True)
class DriftStory:
    """What the page tells.

    Attributes:
        model, version: Watched.
        policy: How windows are judged.
        trained: Day on which its training data ended; None where that is not known.
        windows: Oldest first.
        evaluations: As they were logged, oldest first.
        incidents: Live ones by number.
        triggers: Orders to train again: id, day, reason, run.
        pages: Names of Evidently's pages beside this one.
    """

    model: str
    version: str
    policy: DriftPolicy
    trained: date | None
    windows: Sequence[Window]
    evaluations: Sequence[Mapping[str, Any]]
    incidents: Mapping[int, Incident]
    triggers: Sequence[tuple[str, date, str, str]]
    pages: Sequence[str]


def write_drift_page(story: DriftStory, path: Path) -> None:
    """Render the page."""
    environment = Environment(
        loader=PackageLoader("brewhouse.reporting"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["num"] = lambda v, digits=3: "n/a" if v is None else f"{v:.{digits}f}"
    curve = decay_of(story.windows, trained=story.trained) if story.trained else None
    last = story.windows[-1] if story.windows else None
    told = {t["key"]: t for t in story.evaluations[-1]["told"]} if story.evaluations else {}
    page = environment.get_template("drift.html").render(
        s=story,
        last=last,
        told=told,
        sentences=sentences(story, curve),
        figure=Html(performance_figure(story, curve)) if _points(story.windows) else "",
    )
    write_text(path, page)


def sentences(story: DriftStory, curve: Decay | None) -> list[str]:
    """How things stand, in plain words."""
    found = []
    if not story.windows:
        return ["No window was judged yet: the first is over a window after its tests ended."]
    last = story.windows[-1]
    found.append(
        f"{len(story.windows)} windows were judged, the last from {last.start} to {last.end}; "
        f"labels of rows shown before {last.matured_until} are final."
    )
    found.append(
        f"{len(story.incidents)} incidents stand." if story.incidents else "No incident stands."
    )
    if curve is None:
        found.append("A decay curve needs three windows with labels.")
        return found
    low, high = curve.slope_interval
    found.append(
        f"The mean AUC changes by {curve.slope:+.4f} a week ({low:+.4f} to {high:+.4f}, 95 %)."
    )
    rules = story.policy.economics
    crossing = curve.crossing(curve.fresh - rules.margin)
    if crossing.age is None or high >= 0:
        found.append(f"That is no decay that can be told from none; margin {rules.margin:g}.")
    else:
        latest = "never" if crossing.latest is None else f"week {crossing.latest:.0f}"
        found.append(
            f"It falls by the gate's margin of {rules.margin:g} in week {crossing.age:.0f} of its "
            f"age (week {crossing.earliest or 0:.0f} to {latest})."
        )
    best = curve.best_interval(cost=rules.retrain_cost, worth=rules.auc_week)
    if best is not None and high < 0:
        found.append(
            f"Trained every {best:.0f} weeks, retrainings and lost AUC together cost least "
            f"(a retraining {rules.retrain_cost:g}, .01 AUC for a week {rules.auc_week / 100:g})."
        )
    return found


def _points(windows: Sequence[Window]) -> list[tuple[date, float, float, float | None]]:
    return [
        (window.matured_until, s.value, s.error or 0.0, s.reference)
        for window in windows
        for s in window.signals
        if s.key == AUC and s.value is not None
    ]


def performance_figure(story: DriftStory, curve: Decay | None) -> str:
    """Mean AUC by window with its error, the reference, the decay curve, and retrainings."""
    points = _points(story.windows)
    first = story.trained or points[0][0]
    figure, axes = new_figure(8, 3.2)
    ages = [(day - first).days / WEEK for day, *_ in points]
    axes.errorbar(
        ages,
        [p[1] for p in points],
        yerr=[1.96 * p[2] for p in points],
        fmt="o",
        color=_OURS,
        label="mean AUC, 95 %",
    )
    if points[-1][3] is not None:
        axes.axhline(points[-1][3], color=_THEIRS, linestyle="--", label="at registration")
    if curve is not None:
        xs = [0.0, max(ages) * 1.25 + 1]
        axes.plot(xs, [curve.at(x)[0] for x in xs], color="#555555", label="decay curve")
    for _, day, _, _ in story.triggers:
        axes.axvline((day - first).days / WEEK, color="#B00020", linewidth=1)
    axes.set_xlabel("age of the model in weeks; red lines: retraining ordered")
    axes.set_ylabel("mean AUC")
    axes.legend(fontsize=8, frameon=False)
    return to_svg(figure)

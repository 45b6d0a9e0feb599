"""The report: one self-contained HTML page a model owner can read without the code."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup as Html

from brewhouse.evaluation.compare import MEASURES, Reference
from brewhouse.evaluation.results import Results, SliceResult, TaskResult
from brewhouse.evaluation.slices import HISTORY_NAMES
from brewhouse.files import write_text
from brewhouse.gates.verdict import Verdict
from brewhouse.prompts.probes import COLD, NEWCOMER
from brewhouse.reporting import plots

ORDER = tuple(plots.STYLE)


def write_report(
    results: Results, path: Path, *, verdict: Verdict | None = None, champion: Results | None = None
) -> None:
    """Render results to one self-contained page.

    Args:
        results: Of the candidate.
        path: File to write.
        verdict: What the gate made of them, if it has.
        champion: Results of the model in use, to tell what changed.
    """
    environment = Environment(
        loader=PackageLoader("brewhouse.reporting"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["num"] = lambda v, digits=3: "n/a" if v is None else f"{v:.{digits}f}"
    environment.filters["signed"] = lambda v: "n/a" if v is None else f"{v:+.3f}"
    scorers = [s for s in ORDER if any(s in t.scorers for t in results.tasks)]
    largest = max(results.tasks, key=lambda t: t.n)
    told = history_table(results, scorers)
    shown = [s for s in scorers if s in plots.PLOTTED or s == results.production]
    page = environment.get_template("report.html").render(
        r=results,
        verdict=verdict,
        champion=champion,
        scorers=scorers,
        names={s: plots.STYLE[s][2] for s in scorers},
        production=plots.STYLE.get(results.production, ("", "", results.production))[2],
        history=told,
        history_names=HISTORY_NAMES,
        what=PROBES,
        newcomer=NEWCOMER,
        cold=COLD,
        labels={name: label for name, (_, _, label) in plots.STYLE.items()},
        sentences=sentences(results),
        changes=changes(results, champion) if champion else [],
        probe_sentences=probe_sentences(results),
        means=means(results, scorers),
        worse=worse_slices(results),
        comparisons=[
            (label, Html(plots.forest(rows, f"AUC of the ranker minus that of {label}")))
            for label, rows in comparisons(results, champion)
        ],
        dots=Html(
            plots.dots(  # SVG that we draw from numbers
                [
                    (t.name, {s: t.scorers[s].auc.value for s in shown if s in t.scorers})
                    for t in results.tasks
                ],
                {
                    t.name: (t.scorers["ranker"].auc.low, t.scorers["ranker"].auc.high)
                    for t in results.tasks
                },
            )
        ),
        lines=Html(
            plots.lines(
                HISTORY_NAMES,
                {s: [told[s][h] for h in HISTORY_NAMES] for s in shown},
                "known interactions of the member",
            )
        ),
        calibration=Html(plots.calibration(largest.reliability)),
        calibrated=largest.name,
    )
    write_text(path, page)


def comparisons(
    results: Results, champion: Results | None
) -> list[tuple[str, list[tuple[str, float, float, float, float | None]]]]:
    """By reference: name, difference, interval and margin of each task."""
    out = []
    for to in ("champion", "production"):
        reference = Reference(results, champion, to)
        rows = []
        for task in results.tasks:
            gap = reference.gap(task, "auc")
            if gap is None:
                continue
            margin = next((m.margin for m in task.metrics if m.name == "auc"), None)
            rows.append((_label(task), gap.value, *gap.interval(0.95), margin))
        if rows:
            out.append((to if to == "champion" else f"production ({results.production})", rows))
    return out


def changes(results: Results, champion: Results) -> list[str]:
    """What differs from the model in use, in plain words."""
    reference = Reference(results, champion, "champion")
    out = []
    for measure, label in MEASURES.items():
        gap = reference.mean(measure)
        if gap:
            low, high = gap.interval(0.95)
            out.append(
                f"Mean AUC over {label} is {gap.value:+.4f} against the champion "
                f"({low:+.4f} to {high:+.4f})."
            )
    new = {t.name for t in results.tasks} - {t.name for t in champion.tasks}
    gone = {t.name for t in champion.tasks} - {t.name for t in results.tasks}
    out += [f"New tasks: {', '.join(sorted(new))}."] if new else []
    out += [f"Tasks no longer judged: {', '.join(sorted(gone))}."] if gone else []
    ends = [r.split["train_end"][:10] for r in (results, champion)]
    out.append(f"Trained until {ends[0]}, the champion until {ends[1]}.")
    tokens = [r.cost["tokens_per_leaf"] for r in (results, champion)]
    out.append(f"A candidate takes {tokens[0]:.1f} tokens, with the champion {tokens[1]:.1f}.")
    return out


def worse_slices(results: Results, most: int = 12) -> list[tuple[TaskResult, SliceResult]]:
    """Slices of T1 tasks whose interval lies below production's, the largest loss first."""
    found = [
        (task, one)
        for task in results.tasks
        if task.tier == "T1"
        for one in task.slices
        if one.difference.high is not None and one.difference.high < 0
    ]
    return sorted(found, key=lambda pair: pair[1].difference.value or 0.0)[:most]


def _label(task: TaskResult) -> str:
    return task.name + (f" +{task.horizon_weeks}w" if task.horizon_weeks else "")


def means(results: Results, scorers: list[str]) -> dict[str, dict[str, float | None]]:
    """Mean AUC by tier and scorer."""
    return {tier: {s: results.mean_auc(s, tier) for s in scorers} for tier in ("T1", "T2")}


def history_table(results: Results, scorers: list[str]) -> dict[str, dict[str, float | None]]:
    """Mean AUC over T1 tasks by scorer and history length, each weighted by its rows.

    Only tasks in which every scorer has a value at that length count, so that scorers compare.
    """
    table: dict[str, dict[str, float | None]] = {s: {} for s in scorers}
    for value in HISTORY_NAMES:
        parts = [
            (one.n, one.auc)
            for task in results.tasks
            if task.tier == "T1"
            for one in task.slices
            if (one.dimension, one.value) == ("history", value)
            and all(one.auc.get(s) is not None for s in scorers if s in task.scorers)
            and all(s in task.scorers for s in scorers)
        ]
        rows = sum(n for n, _ in parts)
        for s in scorers:
            table[s][value] = sum(n * (a[s] or 0.0) for n, a in parts) / rows if rows else None
    return table


def sentences(results: Results) -> list[str]:
    """Where the ranker stands, in plain words."""
    ours = results.mean_auc("ranker", "T1")
    out = []
    for name in ORDER[1:]:
        other = results.mean_auc(name, "T1")
        if ours is not None and other is not None:
            side = "above" if ours >= other else "below"
            label = plots.STYLE[name][2]
            label = f"the {label}" if name.startswith("oracle") else label
            if name == results.production:
                label += ", which stands in for the production model"
            out.append(
                f"On T1 tasks the ranker's mean AUC of {ours:.3f} is "
                f"{abs(ours - other):.3f} {side} that of {label} ({other:.3f})."
            )
    two = results.mean_auc("ranker", "T2")
    if two is not None:
        out.append(f"On T2 tasks, whose surfaces it never saw, its mean AUC is {two:.3f}.")
    return out


PROBES = {
    "newest_0": "no history, profile only",
    f"newest_{COLD}": f"the {COLD} newest events only",
    "newest_20": "the 20 newest events only",
    "shuffled_order": "events dealt out anew over the times",
    "shuffled_labels": "actions dealt out anew over the events of each surface",
    "flipped_labels": "every action turned into its opposite",
}
"""What each history probe changes."""


def probe_sentences(results: Results) -> list[str]:
    """Whether the ranker reads its history, and what rewording costs, in plain words."""
    by_name = {p.name: p for p in results.probes}
    out = []
    for name, verb in (("shuffled_labels", "Shuffling"), ("flipped_labels", "Flipping")):
        if name in by_name and by_name[name].cost.value is not None:
            out.append(
                f"{verb} the labels of the history costs {by_name[name].cost.value:.3f} AUC: "
                f"{by_name[name].ordinary_auc:.3f} becomes {by_name[name].auc:.3f}."
            )
    for cold in (p for p in results.probes if results.production in p.peers):
        peer = cold.peers[results.production]
        out.append(
            f"When no more than {COLD} interactions of a member are "
            f"known, the ranker's mean AUC is {cold.auc:.3f} and that of "
            f"{plots.STYLE[results.production][2]}, asked with as little, {peer.auc:.3f}: "
            f"{peer.lead.value:+.3f} ({peer.lead.low:+.3f} to {peer.lead.high:+.3f})."
        )
    styles = [p for p in results.probes if p.kind == "style" and p.cost.value is not None]
    if styles:
        worst = max(styles, key=lambda p: p.cost.value or 0.0)
        out.append(f"The dearest rewording, '{worst.name}', costs {worst.cost.value:.3f} AUC.")
    return out

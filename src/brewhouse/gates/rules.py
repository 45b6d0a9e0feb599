"""What each kind of rule finds: an outcome, one reasoned line, and details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from brewhouse.errors import GateError
from brewhouse.evaluation.compare import Gap, Reference
from brewhouse.evaluation.results import Results, TaskResult
from brewhouse.evaluation.uncertainty import holm, p_above, rows_needed
from brewhouse.gates import policy as p
from brewhouse.gates.outcome import Outcome, worst
from brewhouse.tasks.spec import HIGHER_IS_BETTER

Found = tuple[Outcome, str, list[str]]
_NAMED = 5
"""Tasks that a reason names; the details hold all."""


def apply(rule: Any, results: Results, champion: Results | None) -> Found:
    """Apply one rule."""
    against_champion = getattr(rule, "to", None) or getattr(rule, "over", None)
    if against_champion == "champion" and champion is None:
        return Outcome.PASS, "no champion yet, nothing to fall behind", []
    match rule:
        case p.MeanFloor():
            return _mean_floor(rule, results)
        case p.TaskFloor():
            return _task_floor(rule, results)
        case p.MeanLift():
            return _mean_lift(rule, results)
        case p.NonInferior():
            return _non_inferior(rule, results, Reference(results, champion, rule.to))
        case p.MeanNonInferior():
            return _mean_non_inferior(rule, Reference(results, champion, rule.to))
        case p.Success():
            return _success(rule, Reference(results, champion, rule.over))
        case p.NoDeterioration():
            return _no_deterioration(rule, results, Reference(results, champion, rule.to))
        case p.SliceRegression():
            return _slices(rule, results, Reference(results, champion, rule.to))
        case p.Calibration():
            return _calibration(rule, results)
        case p.Cost():
            return _cost(rule, results, champion)
        case p.EnoughRows():
            return _enough_rows(rule, results)
        case p.CheckPassed():
            return _check(rule, results)
        case p.ProbeCost():
            return _probe(rule, results)
        case p.TiersProved():
            return _tiers_proved(results)
    msg = f"rule kind {rule.kind} has no implementation"
    raise GateError(msg)


def _limit(passed: bool, text: str) -> Found:
    return (Outcome.PASS if passed else Outcome.FAIL), text, []


def _mean_floor(rule: p.MeanFloor, results: Results) -> Found:
    mean = results.mean_auc("ranker", rule.tier)
    if mean is None:
        return Outcome.INCONCLUSIVE, f"no {rule.tier or 'task'} with both classes", []
    text = f"mean AUC {mean:.4f} over {rule.tier or 'all'} tasks, floor {rule.at_least:.4f}"
    return _limit(mean >= rule.at_least, text)


def _task_floor(rule: p.TaskFloor, results: Results) -> Found:
    sign = 1 if HIGHER_IS_BETTER[rule.metric] else -1
    short, unknown, tasks = [], [], _tasks(results, rule.tier, rule.tasks)
    for task in tasks:
        value = task.scorers["ranker"].of(rule.metric).value
        if value is None:
            unknown.append(task.name)
        elif sign * value < sign * rule.limit:
            short.append(f"{task.name} {value:.4f}")
    side = "below" if sign > 0 else "above"
    text = f"{rule.metric} of {len(tasks)} tasks, limit {rule.limit:g}"
    if short:
        return Outcome.FAIL, f"{text}: {_some(short)} {side} it", short
    if unknown or not tasks:
        return Outcome.INCONCLUSIVE, f"{text}: no value for {_some(unknown) or 'any'}", unknown
    return Outcome.PASS, text, []


def _mean_lift(rule: p.MeanLift, results: Results) -> Found:
    gaps = [
        task.difference[rule.over]["auc"].value
        for task in _tasks(results, rule.tier)
        if rule.over in task.difference
    ]
    known = [g for g in gaps if g is not None]
    if not known:
        return Outcome.INCONCLUSIVE, f"no task has both the ranker and {rule.over}", []
    mean = sum(known) / len(known)
    text = (
        f"mean AUC {mean:+.4f} against {rule.over} over {len(known)} tasks, "
        f"required {rule.at_least:+.4f}"
    )
    return _limit(mean >= rule.at_least, text)


def _non_inferior(rule: p.NonInferior, results: Results, reference: Reference) -> Found:
    found: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    lacking = 0
    for task in _tasks(results, rule.tier, rule.tasks):
        rules = {m.name: m.margin for m in task.metrics}
        names = [rule.metric] if rule.metric else list(rules)
        for metric in names:
            gap = reference.gap(task, metric)
            if gap is None:
                continue
            margin = rule.margin or rules.get(metric, 0.01)
            outcome, text = judge_gap(gap, margin=margin, level=rule.level)
            if outcome is Outcome.INCONCLUSIVE:
                missing = _rows_missing(gap, margin, rule.level)
                lacking = max(lacking, missing)
                text += f", {missing:,} more rows needed" if missing else ", too close to it"
            found[outcome].append(f"{task.name} {metric} {text}")
    details = [line for outcome in Outcome for line in found[outcome]]
    if not details:
        return Outcome.INCONCLUSIVE, f"no task has a value of the ranker and of {rule.to}", []
    outcome = worst([o for o in Outcome if found[o]])
    counted = f"{len(found[Outcome.PASS])} of {len(details)} not inferior to {rule.to}"
    if outcome is Outcome.PASS:
        return outcome, counted, details
    text = f"{counted}; {_some(found[outcome])}"
    if outcome is Outcome.INCONCLUSIVE and lacking:
        text += f"; up to {lacking:,} more rows a task would decide"
    return outcome, text, details


def judge_gap(gap: Gap, *, margin: float, level: float) -> tuple[Outcome, str]:
    """Whether a difference is proved to lie above minus the margin, or below it."""
    low, high = gap.interval(level)
    text = f"{gap.value:+.4f} [{low:+.4f}, {high:+.4f}], margin {margin:g}"
    if low >= -margin:
        return Outcome.PASS, text
    if high < -margin:
        return Outcome.FAIL, text
    return Outcome.INCONCLUSIVE, text


def _rows_missing(gap: Gap, margin: float, level: float) -> int:
    """Rows beyond those there are, for a decision with power 0.8 if the truth is what was seen.

    0 where what was seen lies below the margin: more rows would rather fail it.
    """
    room = gap.value + margin
    if room <= 0:
        return 0
    needed = rows_needed(gap.n, gap.error, min(room, margin), alpha=(1 - level) / 2)
    return max(0, needed - gap.n)


def _mean_non_inferior(rule: p.MeanNonInferior, reference: Reference) -> Found:
    gap = reference.mean(rule.tier or "suite")
    if gap is None:
        return Outcome.INCONCLUSIVE, f"no task in common with {rule.to}", []
    outcome, text = judge_gap(gap, margin=rule.margin, level=rule.level)
    return outcome, f"mean AUC against {rule.to} {text}", []


def _success(rule: p.Success, reference: Reference) -> Found:
    values: dict[str, tuple[float, float]] = {}
    for name in rule.measures:
        if name == "cold":
            if cold := reference.cold():
                values[name] = cold
        elif gap := reference.mean(name):
            values[name] = (gap.value, gap.error)
    if not values:
        return Outcome.INCONCLUSIVE, f"no measure is known of both the ranker and {rule.over}", []
    adjusted = holm({name: p_above(*pair) for name, pair in values.items()})
    lines = [f"{name} {value:+.4f} (p {adjusted[name]:.4f})" for name, (value, _) in values.items()]
    text = f"{', '.join(lines)} against {rule.over}, alpha {rule.alpha:g} by Holm"
    better = [name for name, value in adjusted.items() if value <= rule.alpha]
    if better:
        return Outcome.PASS, f"better on {', '.join(sorted(better))}: {text}", lines
    return Outcome.INCONCLUSIVE, f"no measure is proved better: {text}", lines


def _no_deterioration(rule: p.NoDeterioration, results: Results, reference: Reference) -> Found:
    raw, seen = {}, {}
    for task in _tasks(results, rule.tier):
        gap = reference.gap(task, task.metrics[0].name)
        if gap:
            name = f"{task.name}@{task.version} week {task.horizon_weeks}"
            raw[name], seen[name] = p_above(-gap.value, gap.error), gap.value
    if not raw:
        return Outcome.INCONCLUSIVE, f"no task in common with {rule.to}", []
    adjusted = holm(raw)
    worse = [
        f"{name} {seen[name]:+.4f} (p {adjusted[name]:.4f})"
        for name in sorted(raw, key=lambda n: seen[n])
        if adjusted[name] <= rule.alpha
    ]
    if worse:
        text = f"{len(worse)} of {len(raw)} tasks proved worse than {rule.to}: {_some(worse)}"
        return Outcome.FAIL, text, worse
    return Outcome.PASS, f"none of {len(raw)} tasks proved worse than {rule.to}", []


def _slices(rule: p.SliceRegression, results: Results, reference: Reference) -> Found:
    raw, seen = {}, {}
    for task in _tasks(results, rule.tier):
        for name, n, value, error in reference.slice_gaps(task):
            dimension = name.split(" ", 1)[0]
            if n < rule.n_min or (rule.dimensions and dimension not in rule.dimensions):
                continue
            full = f"{task.name}, {name}"
            # How surely the loss exceeds what is put up with.
            raw[full], seen[full] = p_above(-value, error, rule.at_most), value
    if not raw:
        return Outcome.INCONCLUSIVE, f"no slice has {rule.n_min} rows and both sides", []
    adjusted = holm(raw)
    worse = [
        f"{name} {seen[name]:+.4f}"
        for name in sorted(raw, key=lambda n: seen[n])
        if adjusted[name] <= rule.alpha
    ]
    text = f"{len(raw)} slices against {rule.to}, a loss of {rule.at_most:g} is put up with"
    if worse:
        return Outcome.FAIL, f"{text}: {_some(worse)}", worse
    lowest = min(raw, key=lambda n: (seen[n], n))
    return Outcome.PASS, f"{text}; lowest {lowest} {seen[lowest]:+.4f}", []


def _calibration(rule: p.Calibration, results: Results) -> Found:
    values = [
        (task.scorers["ranker"].ece.value, task.name)
        for task in _tasks(results, "T1")
        if (not task.sampled_negatives or task.prior is not None)
        and task.scorers["ranker"].ece.value is not None
    ]
    if not values:
        return Outcome.INCONCLUSIVE, "no T1 task with a natural base rate", []
    mean = sum(v for v, _ in values if v is not None) / len(values)
    worst_of = max((v or 0.0, n) for v, n in values)
    text = (
        f"mean ECE {mean:.4f} over {len(values)} tasks (worst {worst_of[0]:.4f}, {worst_of[1]}), "
        f"limit {rule.at_most:.4f}"
    )
    return _limit(mean <= rule.at_most, text)


def _cost(rule: p.Cost, results: Results, champion: Results | None) -> Found:
    tokens, ms = results.cost["tokens_per_leaf"], results.cost["ms_per_leaf"]
    text = f"{tokens:.1f} tokens and {ms:.2f} ms a candidate"
    over = []
    if rule.tokens_at_most is not None and tokens > rule.tokens_at_most:
        over.append(f"more than {rule.tokens_at_most:g} tokens")
    if rule.ms_at_most is not None and ms > rule.ms_at_most:
        over.append(f"more than {rule.ms_at_most:g} ms")
    if rule.ratio_at_most is not None and champion is not None:
        ratio = tokens / max(champion.cost["tokens_per_leaf"], 1e-9)
        text += f", {ratio:.2f} times the champion's tokens"
        if ratio > rule.ratio_at_most:
            over.append(f"more than {rule.ratio_at_most:g} times")
    return _limit(not over, text + (": " + ", ".join(over) if over else ""))


def _enough_rows(rule: p.EnoughRows, results: Results) -> Found:
    tasks = _tasks(results, rule.tier)
    short = [task for task in tasks if task.n < task.n_min]
    have = len(tasks) - len(short)
    if tasks and have >= rule.share * len(tasks):
        return Outcome.PASS, f"{have} of {len(tasks)} tasks have their minimum of rows", []
    missing = [f"{t.name} lacks {t.n_min - t.n}" for t in short]
    text = f"{have} of {len(tasks)} tasks have their rows; {_some(missing)}"
    return Outcome.INCONCLUSIVE, text, missing


def _check(rule: p.CheckPassed, results: Results) -> Found:
    for check in results.checks:
        if check.name == rule.name:
            return _limit(check.passed, f"{check.name}: {check.detail}")
    known = ", ".join(sorted(c.name for c in results.checks))
    return Outcome.INCONCLUSIVE, f"check '{rule.name}' was not run (run were: {known})", []


def _probe(rule: p.ProbeCost, results: Results) -> Found:
    for probe in results.probes:
        if probe.name != rule.name or probe.cost.value is None:
            continue
        low, high = probe.cost.low, probe.cost.high
        text = f"{probe.name} costs {probe.cost.value:+.4f} AUC"
        if low is None or high is None:
            return Outcome.INCONCLUSIVE, f"{text}, without an interval", []
        text += f" [{low:+.4f}, {high:+.4f}]"
        outcomes = []
        if rule.at_least is not None:
            text += f", required at least {rule.at_least:g}"
            outcomes.append(_side(low >= rule.at_least, high < rule.at_least))
        if rule.at_most is not None:
            text += f", allowed at most {rule.at_most:g}"
            outcomes.append(_side(high <= rule.at_most, low > rule.at_most))
        return worst(outcomes), text, []
    known = ", ".join(sorted(probe.name for probe in results.probes))
    return Outcome.INCONCLUSIVE, f"probe '{rule.name}' was not run (run were: {known})", []


def _side(proved: bool, refuted: bool) -> Outcome:
    return Outcome.PASS if proved else Outcome.FAIL if refuted else Outcome.INCONCLUSIVE


def _tiers_proved(results: Results) -> Found:
    proofs, tasks = len(results.proofs), {task.name for task in results.tasks}
    if proofs < len(tasks):
        return Outcome.FAIL, f"{proofs} proofs for {len(tasks)} tasks", []
    return Outcome.PASS, f"gap or absence proved for all {len(tasks)} tasks", []


def _tasks(results: Results, tier: str | None, names: Sequence[str] = ()) -> list[TaskResult]:
    return [
        task
        for task in results.tasks
        if (tier is None or task.tier == tier) and (not names or task.name in names)
    ]


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(items[:_NAMED]) + more

"""Performance before labels are there, from the scores alone.

A calibrated score says how often it is right: the AUC that scores of a window promise follows from
them (confidence-based performance estimation, as NannyML has it). It sees that requests became
harder, never that members changed their minds; so it is judged on every cohort whose labels have
matured, and believed only where it held there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from brewhouse.domains.strict import Strict
from brewhouse.drift.measure import Means, ScoredTask, by_surface, compared, mean_auc, measurable
from brewhouse.drift.signals import Kind, Signal

TRUSTED = 0.02
"""Error on the last matured cohort up to which an estimate is believed, beyond sampling."""
LEAST_ROWS = 40
"""Rows that a promise is made on."""
_STEPS = 50
_LONGEST = 2.0


class Calibration(Strict):
    """Log-odds that a task's score stands for: `slope * score + intercept` (Platt, 1999)."""

    slope: float
    intercept: float


class EstimateReference(Strict):
    """What estimates start from.

    Attributes:
        calibration: By task.
        promised: AUC that the test rows' scores promised, by task.
    """

    calibration: dict[str, Calibration]
    promised: dict[str, float]


def estimate_reference(tasks: Sequence[ScoredTask]) -> EstimateReference:
    """Fit calibrations on a version's matured test rows, of the tasks that are measurable."""
    fitted = {t.name: _platt(np.asarray(t.y, float), t.s) for t in tasks if measurable(t)}
    return EstimateReference(calibration=fitted, promised=_promised(tasks, fitted))


def estimates(
    fresh: Sequence[ScoredTask],
    matured: Sequence[ScoredTask],
    reference: EstimateReference,
    auc: Means,
) -> list[Signal]:
    """By how much the AUC is expected to have fallen, by surface, and how the last estimate did.

    Args:
        fresh: Rows whose labels have not matured.
        matured: The last cohort whose labels have.
        reference: Bound to the version.
        auc: What the version's test rows said.
    """
    wrong = _errors(matured, reference, auc)
    out = []
    for surface, part in by_surface(fresh).items():
        fall, names = _fall(part, reference)
        known = auc.over(names)
        if known is None:
            continue
        error, doubt = wrong.get(surface, (math.nan, math.nan))
        believed = math.isfinite(error) and abs(error) <= TRUSTED + 2 * doubt
        why = (
            "no cohort has matured to judge estimates by"
            if not math.isfinite(error)
            else f"the last estimate was {error:+.3f} off"
        )
        out.append(
            Signal(
                name="auc",
                kind=Kind.ESTIMATE,
                surface=surface,
                effect=fall if believed else None,
                value=known[0] - fall,
                reference=known[0],
                n=sum(len(task.s) for task in part),
                detail={} if believed else {"why": f"not believed: {why}"},
            )
        )
    return out


def _errors(
    matured: Sequence[ScoredTask], reference: EstimateReference, auc: Means
) -> dict[str, tuple[float, float]]:
    """Estimate less what came true, and its standard error, by surface; over the same tasks."""
    found = {}
    for surface, part in by_surface(matured).items():
        mine, known, _ = compared(part, auc)
        fall, names = _fall(mine, reference)
        if known is not None and set(names) == {task.name for task in mine}:
            value, error = mean_auc(mine)
            found[surface] = (known[0] - fall - value, math.hypot(error, known[1]))
    return found


def _fall(tasks: Sequence[ScoredTask], reference: EstimateReference) -> tuple[float, list[str]]:
    """By how much scores promise less than at registration, and over which tasks."""
    now = _promised(tasks, reference.calibration)
    names = [name for name in now if name in reference.promised]
    falls = [reference.promised[name] - now[name] for name in names]
    return (float(np.mean(falls)) if falls else math.nan), names


def _promised(tasks: Sequence[ScoredTask], calibration: dict[str, Calibration]) -> dict[str, float]:
    found = {
        task.name: promised_auc(task.s, calibration[task.name])
        for task in tasks
        if task.name in calibration and len(task.s) >= LEAST_ROWS
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def promised_auc(s: np.ndarray, calibration: Calibration) -> float:
    """Expected AUC of calibrated scores, ties counted half.

    Over all pairs: how often the higher one is the positive, given the probability of each.
    """
    p = _sigmoid(calibration.slope * s + calibration.intercept)
    order = np.argsort(s, kind="stable")
    p, s = p[order], s[order]
    first = np.concatenate([[True], s[1:] != s[:-1]])
    tie = np.cumsum(first) - 1
    yes, no = np.bincount(tie, weights=p), np.bincount(tie, weights=1 - p)
    below = np.cumsum(no) - no
    pairs = yes.sum() * no.sum() - (p * (1 - p)).sum()
    wins = (yes * (below + no / 2)).sum() - (p * (1 - p)).sum() / 2
    return float(wins / pairs) if pairs > 0 else math.nan


def _platt(y: np.ndarray, s: np.ndarray) -> Calibration:
    """Logistic regression on the score by Newton's method, with Platt's softened targets.

    Steps are held to a few units, for far from the answer the second derivative vanishes.
    """
    yes, no = y.sum(), len(y) - y.sum()
    target = np.where(y > 0.5, (yes + 1) / (yes + 2), 1 / (no + 2))
    design = np.stack([s, np.ones(len(s))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(_STEPS):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - target)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - np.clip(step, -_LONGEST, _LONGEST)
        if np.abs(step).max() < 1e-8:
            break
    return Calibration(slope=float(weights[0]), intercept=float(weights[1]))


def _sigmoid(s: np.ndarray) -> np.ndarray:
    """Stable for large scores."""
    return np.exp(-np.logaddexp(0.0, -s))

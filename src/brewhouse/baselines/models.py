"""Popularity, means and LightGBM, one model a task, fed with point-in-time counts and features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brewhouse.baselines.features import FeatureBuilder, FeatureTable
from brewhouse.evaluation.metrics import auc

LIGHTGBM: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_child_samples": 40,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
}
"""One thread: two of them beside other work made small tasks 15 times slower (92 s against 6 s)."""
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"num_leaves": 15, "min_child_samples": 100, "feature_fraction": 0.5},
    {
        "num_leaves": 8,
        "min_child_samples": 100,
        "feature_fraction": 0.5,
        "learning_rate": 0.1,
        "lambda_l2": 20.0,
    },
)
"""What the search tries, as differences from `LIGHTGBM`."""
MAX_TREES = 300
PATIENCE = 20
VALIDATION_SHARE = 0.15
PRIOR = 20.0


@dataclass(frozen=True, kw_only=True)
class BaselineScores:
    """Log-odds of test rows, float32, and how the model came about."""

    log_odds: np.ndarray
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """One task's rows.

    Attributes:
        labels_Q: 1 where the task counts the target's action as yes, else 0, float64.
        when_Q: When each target was asked, microseconds.
        train: Target numbers of training rows.
        test: Target numbers to score.
    """

    labels_Q: np.ndarray
    when_Q: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @property
    def base_rate(self) -> float:
        """Share of positives among training rows; one half without any."""
        return float(self.labels_Q[self.train].mean()) if len(self.train) else 0.5


def newest_out(train: np.ndarray, when_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training rows to fit on, and the newest 15 % of them to validate on."""
    order = train[np.argsort(when_Q[train], kind="stable")]
    cut = int(len(order) * (1 - VALIDATION_SHARE))
    return order[:cut], order[cut:]


def popularity(builder: FeatureBuilder, data: TaskData) -> BaselineScores:
    """How often anybody engaged with the item on any surface, as known at the moment.

    The log-odds of the base rate, shifted by the log of the item's known engagements against their
    mean over training rows: a count, blind to how often the item was shown.
    """
    engaged = builder.logged_counts("item").where(builder.engaged)
    usual = float(engaged[data.train].mean()) if len(data.train) else 0.0
    p = np.clip(data.base_rate, 1e-6, 1 - 1e-6)
    shift = np.log((engaged[data.test] + 1.0) / (usual + 1.0))
    record = {"base_rate": data.base_rate, "mean": usual, "train_rows": len(data.train)}
    return BaselineScores(log_odds=(np.log(p / (1 - p)) + shift).astype(np.float32), record=record)


def mean_of(
    builder: FeatureBuilder, what: str, positive_log: np.ndarray, data: TaskData
) -> BaselineScores:
    """Smoothed share of positives among known impressions of the item, or of the member.

    Args:
        builder: Gives point-in-time counts.
        what: `item` or `member`; only impressions on the target's surface count.
        positive_log: Per log row, whether the task counts it as yes on its surface.
        data: The task's rows; the base rate of its training rows is worth `PRIOR` impressions.
    """
    counter = builder.logged_counts(f"{what}_surface")
    shown, liked = counter.all()[data.test], counter.where(positive_log)[data.test]
    p = np.clip((liked + PRIOR * data.base_rate) / (shown + PRIOR), 1e-6, 1 - 1e-6)
    record = {"prior": PRIOR, "base_rate": data.base_rate, "train_rows": len(data.train)}
    return BaselineScores(log_odds=np.log(p / (1 - p)).astype(np.float32), record=record)


def search_lightgbm(
    tables: Sequence[tuple[FeatureTable, FeatureTable, TaskData]], *, seed: int, rows: int = 10_000
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Choose one setting for all tasks by mean validation AUC over a few of them.

    Args:
        tables: Shared features, own features and rows of the tasks to try on.
        seed: Seed.
        rows: Newest training rows a task, at most.

    Returns:
        The best setting, and every trial with its validation AUC.
    """
    trials: list[dict[str, Any]] = []
    for setting in SETTINGS if tables else SETTINGS[:1]:
        values = []
        for shared, own, data in tables:
            order = np.argsort(data.when_Q[data.train], kind="stable")[-rows:]
            fit, check = newest_out(data.train[order], data.when_Q)
            if _both(data.labels_Q, fit) and _both(data.labels_Q, check):
                model = _boost(_Columns(shared, own), data.labels_Q, fit, check, setting, seed)
                p = model.predict(_Columns(shared, own)[check])
                values.append(auc(data.labels_Q[check], p))
        trials.append(
            {"setting": setting, "validation_auc": float(np.mean(values)) if values else None}
        )
    best = int(np.argmax([trial["validation_auc"] or 0.0 for trial in trials]))
    return dict(SETTINGS[best]), trials


def lightgbm(
    shared: FeatureTable,
    own: FeatureTable,
    data: TaskData,
    *,
    seed: int,
    setting: dict[str, Any] | None = None,
) -> BaselineScores | None:
    """Gradient-boosted trees; the newest 15 % of training rows choose the number of trees.

    Returns:
        None where the training rows hold only one class.
    """
    started = time.monotonic()
    fit, check = newest_out(data.train, data.when_Q)
    if not _both(data.labels_Q, fit) or not _both(data.labels_Q, check):
        return None
    table = _Columns(shared, own)
    model = _boost(table, data.labels_Q, fit, check, setting or {}, seed)
    p = np.clip(model.predict(table[data.test]), 1e-6, 1 - 1e-6)
    names = [*shared.names, *own.names]
    record = {
        "trees": model.best_iteration,
        "train_rows": len(fit),
        "validation_rows": len(check),
        "validation_auc": auc(data.labels_Q[check], model.predict(table[check])),
        "top_features": [names[i] for i in np.argsort(-model.feature_importance("gain"))[:8]],
        "seconds": round(time.monotonic() - started, 2),
        "parameters": LIGHTGBM | (setting or {}),
    }
    return BaselineScores(log_odds=np.log(p / (1 - p)).astype(np.float32), record=record)


class _Columns:
    """Rows of two feature tables side by side, copied only for the rows asked for."""

    def __init__(self, shared: FeatureTable, own: FeatureTable) -> None:
        self.parts = (shared.values_QF, own.values_QF)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return np.concatenate([part[index] for part in self.parts], axis=1)


def _both(labels_Q: np.ndarray, rows: np.ndarray) -> bool:
    return len(np.unique(labels_Q[rows])) == 2


def _boost(
    table: _Columns,
    labels_Q: np.ndarray,
    fit: np.ndarray,
    check: np.ndarray,
    setting: dict[str, Any],
    seed: int,
) -> Any:
    import lightgbm as lgb

    train_set = lgb.Dataset(table[fit], labels_Q[fit])
    check_set = lgb.Dataset(table[check], labels_Q[check], reference=train_set)
    return lgb.train(
        LIGHTGBM | setting | {"seed": seed},
        train_set,
        num_boost_round=MAX_TREES,
        valid_sets=[check_set],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )

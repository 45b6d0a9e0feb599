"""Popularity and LightGBM, one model a task, fed with point-in-time features."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from brewhouse.baselines.features import FeatureBuilder, FeatureTable

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
    "num_threads": 2,
}
MAX_TREES = 200
PATIENCE = 20
VALIDATION_SHARE = 0.15


@dataclass(frozen=True, kw_only=True)
class BaselineScores:
    """Log-odds of test rows, float32, and how the model came about."""

    log_odds: np.ndarray
    record: dict[str, Any]


def popularity(
    builder: FeatureBuilder,
    positive_log: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    prior: float = 20.0,
) -> BaselineScores:
    """Smoothed share of positives among known impressions of the item on the target's surface.

    Args:
        builder: Gives point-in-time counts.
        positive_log: Per log row, whether the task counts it as yes.
        train: Target numbers of training rows: their base rate is the prior.
        test: Target numbers to score.
        prior: Impressions that the base rate is worth.
    """
    log, targets = builder.log, builder.timelines.targets_Q
    key = log.item * len(log.surfaces) + log.surface
    base = float(positive_log[targets[train]].mean()) if len(train) else 0.5
    counter = builder.counter("item_surface", key, key[targets])
    shown, liked = counter.all()[test], counter.where(positive_log)[test]
    p = np.clip((liked + prior * base) / (shown + prior), 1e-6, 1 - 1e-6)
    record = {"model": "popularity", "prior": prior, "base_rate": base, "train_rows": len(train)}
    return BaselineScores(log_odds=np.log(p / (1 - p)).astype(np.float32), record=record)


def lightgbm(
    shared: FeatureTable,
    own: FeatureTable,
    labels_Q: np.ndarray,
    when_Q: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    seed: int,
) -> BaselineScores | None:
    """Gradient-boosted trees; the newest 15 % of training rows choose the number of trees.

    Returns:
        None where the training rows hold only one class.
    """
    import lightgbm as lgb

    started = time.monotonic()
    order = train[np.argsort(when_Q[train], kind="stable")]
    cut = int(len(order) * (1 - VALIDATION_SHARE))
    fit, check = order[:cut], order[cut:]
    if not len(check) or len(np.unique(labels_Q[fit])) < 2 or len(np.unique(labels_Q[check])) < 2:
        return None
    names = [*shared.names, *own.names]

    def rows(index: np.ndarray) -> np.ndarray:
        return np.concatenate([shared.values_QF[index], own.values_QF[index]], axis=1)

    train_set = lgb.Dataset(rows(fit), labels_Q[fit], feature_name=names)
    check_set = lgb.Dataset(rows(check), labels_Q[check], reference=train_set)
    model = lgb.train(
        LIGHTGBM | {"seed": seed},
        train_set,
        num_boost_round=MAX_TREES,
        valid_sets=[check_set],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
    p = np.clip(model.predict(rows(test)), 1e-6, 1 - 1e-6)
    gain = model.feature_importance("gain")
    top = [names[i] for i in np.argsort(-gain)[:8]]
    record = {
        "model": "lightgbm",
        "trees": model.best_iteration,
        "train_rows": len(fit),
        "validation_rows": len(check),
        "top_features": top,
        "seconds": round(time.monotonic() - started, 2),
        "parameters": LIGHTGBM,
    }
    return BaselineScores(log_odds=np.log(p / (1 - p)).astype(np.float32), record=record)

"""Metrics against scikit-learn and against themselves read slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from brewhouse.evaluation import metrics
from brewhouse.evaluation.uncertainty import bootstrap_aucs, cluster_weights, interval

_data = st.integers(0, 2**32 - 1).map(lambda seed: _draw(np.random.default_rng(seed)))


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = int(rng.integers(4, 60))
    y = (rng.random(n) < 0.4).astype(float)
    y[:2] = [0, 1]
    return y, np.round(rng.normal(0, 1, n), 1), rng.integers(0, 5, n)


@settings(max_examples=200, deadline=None)
@given(_data)
def test_auc_gauc_log_loss(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, s, g = case
    assert metrics.auc(y, s) == pytest.approx(roc_auc_score(y, s))
    assert metrics.log_loss(y, s) == pytest.approx(sk_log_loss(y, 1 / (1 + np.exp(-s))))
    parts = [
        (roc_auc_score(y[g == k], s[g == k]), (g == k).sum())
        for k in np.unique(g)
        if 0 < y[g == k].sum() < (g == k).sum()
    ]
    value, groups = metrics.gauc(y, s, g)
    assert groups == len(parts)
    if parts:
        assert value == pytest.approx(
            np.average([a for a, _ in parts], weights=[n for _, n in parts])
        )


def test_ndcg_matches_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(30), 15)
    y, s = (rng.random(450) < 0.3).astype(float), rng.normal(size=450)
    expected = [
        ndcg_score(y[g == k][None], s[g == k][None], k=10) for k in range(30) if y[g == k].any()
    ]
    assert metrics.ndcg(y, s, g) == pytest.approx(np.mean(expected))


def test_ndcg_does_not_depend_on_the_order_of_ties() -> None:
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(20), 12)
    y, s = (rng.random(240) < 0.3).astype(float), np.round(rng.normal(size=240))
    order = rng.permutation(240)
    first = np.lexsort((-y, g))
    values = [metrics.ndcg(y[o], s[o], g[o]) for o in (np.arange(240), order, first)]
    assert values == pytest.approx([values[0]] * 3)


def test_normalised_entropy_and_ece() -> None:
    y = np.array([0.0] * 80 + [1.0] * 20)
    constant = np.full(100, np.log(0.2 / 0.8))
    assert metrics.normalised_entropy(y, constant) == pytest.approx(1)
    assert metrics.ece(np.tile(y, 50), np.tile(constant, 50), bins=1) == pytest.approx(0, abs=1e-9)
    assert metrics.ece(y, np.full(100, 0.0), bins=1) == pytest.approx(0.3)


def test_one_class_has_no_auc() -> None:
    assert np.isnan(metrics.auc(np.ones(3), np.arange(3.0)))
    assert metrics.gauc(np.ones(3), np.arange(3.0), np.zeros(3))[1] == 0


def test_bootstrap_draws_members_and_covers() -> None:
    weights = cluster_weights(np.array([0, 0, 1, 2]), 50, seed=1)
    assert weights.shape == (50, 3)
    assert (weights.sum(1) == 3).all()
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(40):
        members = np.repeat(np.arange(150), 4)
        y = (rng.random(600) < 0.3).astype(float)
        s = y + rng.normal(0, 1.5, 600)
        draws = bootstrap_aucs(y, [s], members, resamples=200, seed=trial)
        low, high = interval(draws[0])
        hits += low < 0.681 < high
    assert hits >= 33


def test_clusters_widen_the_interval() -> None:
    """Rows copied within a member add no information; a row bootstrap would say otherwise."""
    rng = np.random.default_rng(2)
    y = (rng.random(200) < 0.4).astype(float)
    s = y + rng.normal(0, 1, 200)
    y, s = np.repeat(y, 10), np.repeat(s, 10)
    by_member = np.ptp(
        interval(bootstrap_aucs(y, [s], np.repeat(np.arange(200), 10), resamples=300, seed=0)[0])
    )
    by_row = np.ptp(interval(bootstrap_aucs(y, [s], np.arange(2000), resamples=300, seed=0)[0]))
    assert by_member > 2.5 * by_row

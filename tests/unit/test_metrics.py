"""Metrics against scikit-learn and against themselves read slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from brewhouse.evaluation import metrics

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
    assert metrics.gauc(np.ones(3), np.arange(3.0), np.zeros(3, int))[1] == 0


def test_losses_under_the_natural_base_rate() -> None:
    """A perfect model of sampled rows, moved to the natural rate, is perfect for natural rows."""
    rng = np.random.default_rng(3)
    natural, x = 0.02, rng.normal(0, 1, 400_000)
    s = x + np.log(natural / (1 - natural))
    y = (rng.random(len(x)) < metrics.sigmoid(s)).astype(float)
    kept = (y > 0) | (rng.random(len(x)) < 0.05)
    rate, drawn = y.mean(), y[kept].mean()
    learned = metrics.correct_prior(s[kept], sampled=natural, natural=natural)
    learned = learned - np.log(0.05)
    back = metrics.correct_prior(learned, sampled=drawn, natural=rate)
    weight = metrics.prior_weights(y[kept], rate)
    whole, part = metrics.log_loss(y, s), metrics.log_loss(y[kept], back, weight)
    assert part == pytest.approx(whole, rel=0.05)
    assert metrics.ece(y[kept], back, w=weight) < 0.002
    assert metrics.ece(y[kept], learned, w=weight) > 0.2
    whole_ne = metrics.normalised_entropy(y, s)
    assert metrics.normalised_entropy(y[kept], back, weight) == pytest.approx(whole_ne, rel=0.02)

"""Intervals: against slow readings of themselves, published values, and worlds of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from benchmarks import evidence
from brewhouse.evaluation import metrics
from brewhouse.evaluation.resampling import Ranking, Sums, draws, interval, resample
from brewhouse.evaluation.uncertainty import (
    delong,
    delong_clustered,
    holm,
    p_above,
    rows_needed,
    smallest_margin,
)

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def world(rng: np.random.Generator, members: int, per: int, gap: float = 0.0) -> Rows:
    made = evidence.world(rng, members, per, gap=gap)
    return made.y, made.one, made.two, made.member


def test_draws_are_of_members_and_do_not_depend_on_their_number() -> None:
    few = np.concatenate([c for _, c in draws(7, 30, seed=4)])
    many = np.concatenate([c for _, c in draws(7, 90, seed=4)])
    assert few.shape == (30, 7)
    assert (many.sum(1) == 7).all()
    assert np.array_equal(few, many[:30])
    assert not np.array_equal(few[0], few[1])


def test_resampled_auc_is_that_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    y, s, _, member = world(rng, 40, 5)
    s = np.round(s)  # Many ties.
    ranking = Ranking.of(y, s, member)
    for _, counts in draws(40, 50, seed=1):
        for count, found in zip(counts, ranking.aucs(counts), strict=True):
            again = np.repeat(np.arange(len(y)), count[member])
            assert found == pytest.approx(roc_auc_score(y[again], s[again]), abs=1e-12)


def test_other_metrics_are_those_of_repeated_members() -> None:
    rng = np.random.default_rng(1)
    y, s, _, member = world(rng, 30, 6)
    parts = {
        "gauc": Sums(parts_MK=metrics.gauc_parts(y, s, member, 30), value=metrics.gauc_value),
        "ndcg": Sums(parts_MK=metrics.ndcg_parts(y, s, member, 30), value=metrics.gauc_value),
    }
    assert parts["gauc"].whole() == pytest.approx(metrics.gauc(y, s, member)[0])
    _, values = resample([], list(parts.values()), members=30, resamples=25, seed=2)
    counts = next(iter(draws(30, 25, seed=2)))[1]
    for r in (0, 7, 24):
        # A member drawn twice is two members with the same rows.
        rows = [np.flatnonzero(member == m) for m in np.repeat(np.arange(30), counts[r])]
        again, code = np.concatenate(rows), np.repeat(np.arange(30), 6)
        assert values[0, r] == pytest.approx(metrics.gauc(y[again], s[again], code)[0], rel=1e-5)
        assert values[1, r] == pytest.approx(metrics.ndcg(y[again], s[again], code), rel=1e-5)


def test_delong_by_its_definition() -> None:
    """Structural components as the paper writes them, one pair at a time."""
    rng = np.random.default_rng(2)
    y, one, two, _ = world(rng, 25, 4)
    one, two = np.round(one, 1), np.round(two, 1)
    value, error = delong(y, one, two)

    def components(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        psi = (s[y == 1][:, None] > s[y == 0]) + 0.5 * (s[y == 1][:, None] == s[y == 0])
        return psi.mean(1), psi.mean(0)

    (a1, a0), (b1, b0) = components(one), components(two)
    by_hand = np.var(a1 - b1, ddof=1) / len(a1) + np.var(a0 - b0, ddof=1) / len(a0)
    assert value == pytest.approx(roc_auc_score(y, one) - roc_auc_score(y, two))
    assert error == pytest.approx(np.sqrt(by_hand))


def test_bootstrap_and_delong_agree_where_members_hang_together() -> None:
    rng = np.random.default_rng(3)
    y, one, two, member = world(rng, 400, 8, gap=0.2)
    rankings = [Ranking.of(y, s, member) for s in (one, two)]
    drawn, _ = resample(rankings, [], members=400, resamples=2000, seed=0)
    _, error = delong_clustered(y, one, member)
    assert drawn[0].std() == pytest.approx(error, rel=0.08)
    _, error = delong_clustered(y, one, member, two)
    assert (drawn[0] - drawn[1]).std() == pytest.approx(error, rel=0.08)
    # Copies of a member's rows tell nothing new; to an interval by rows they would.
    copied = [np.repeat(v, 10) for v in (y, one, member)]
    assert delong_clustered(*copied)[1] == pytest.approx(
        delong_clustered(y, one, member)[1], rel=0.01
    )
    assert delong(copied[0], copied[1])[1] < 0.5 * delong_clustered(*copied)[1]


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """95 % intervals of AUC and of a paired difference, over 400 worlds of 150 members."""
    found = evidence.coverage()
    assert 0.93 <= found["auc"] <= 0.97, found
    assert 0.93 <= found["difference"] <= 0.97, found


def test_labels_that_are_shuffled_leave_chance() -> None:
    rng = np.random.default_rng(5)
    y, s, _, member = world(rng, 500, 10)
    y = rng.permutation(y)
    drawn, _ = resample([Ranking.of(y, s, member)], [], members=500, resamples=500, seed=0)
    low, high = interval(drawn[0])
    assert low < 0.5 < high
    assert high - low < 0.06


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({}) == {}


def test_power() -> None:
    assert smallest_margin(0.01) == pytest.approx(0.01 * (norm.ppf(0.975) + norm.ppf(0.8)))
    assert rows_needed(1000, 0.01, smallest_margin(0.01) / 2) == pytest.approx(4000, abs=1)
    assert p_above(0.0, 0.01) == pytest.approx(0.5)
    assert p_above(0.0196, 0.01) == pytest.approx(0.025, abs=1e-4)

"""Trains the neural baselines: one network for all tasks each, a short search, all recorded."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from brewhouse.baselines.inputs import Inputs
from brewhouse.baselines.layers import Shape
from brewhouse.baselines.models import newest_out
from brewhouse.baselines.networks import NETWORKS, Network
from brewhouse.evaluation.metrics import auc


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a search may change."""

    lr: float = 4e-3
    decay: float = 1e-2
    shape: Shape = Shape()


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much training is allowed, in rows, so that the same input ends in the same model.

    Attributes:
        rows: Newest training rows of the final training, the validation rows included.
        passes: Passes over them at most.
        search_rows: Training rows that a trial sees once, drawn from those.
        check_rows: Validation rows, the newest of them, that are looked at.
        batch: Targets a step.
        patience: Looks (two a pass) without a better validation AUC before training stops.
    """

    rows: int = 150_000
    passes: int = 2
    search_rows: int = 40_000
    check_rows: int = 10_000
    batch: int = 512
    patience: int = 1


BUDGETS = {
    "din": Budget(rows=100_000, search_rows=20_000),
    "sequence": Budget(rows=80_000, passes=4, search_rows=20_000, patience=3),
}
"""For those that cost more a row."""
SETTINGS = (
    Setting(),
    Setting(lr=8e-3, shape=Shape(dropout=0.2)),
    Setting(lr=8e-3, shape=Shape(width=48, layers=1)),
)
"""What the search tries."""


@dataclass(frozen=True, kw_only=True)
class NeuralScores:
    """Log-odds of test rows, float32, shape (rows, tasks), and how the model came about."""

    log_odds_QK: np.ndarray
    record: dict[str, Any]


def neural(
    name: str,
    inputs: Inputs,
    train: np.ndarray,
    test: np.ndarray,
    *,
    seed: int,
    budget: Budget | None = None,
) -> NeuralScores:
    """Search, train and score one architecture.

    Args:
        name: A key of `NETWORKS`.
        inputs: Tables of all targets.
        train: Target numbers of training rows, of any task.
        test: Target numbers to score.
        seed: Seed of weights, order and dropout.
        budget: Rows and passes.
    """
    with _one_thread():
        return _neural(name, inputs, train, test, seed, budget or BUDGETS.get(name, Budget()))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums, and so scores, must not depend on the number of cores; small steps gain from none."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _neural(
    name: str, inputs: Inputs, train: np.ndarray, test: np.ndarray, seed: int, budget: Budget
) -> NeuralScores:
    started = time.monotonic()
    used = newest(train[inputs.valid_QK[train].any(1)], inputs, budget.rows)
    few = sample(used, NETWORKS[name].groups(inputs), budget.search_rows, seed=seed)
    trials = []
    for setting in SETTINGS:
        _, log = _train(name, inputs, few, setting, budget, passes=1, seed=seed)
        trials.append({"setting": _plain(setting), "validation_auc": log["validation_auc"]})
    best = SETTINGS[int(np.argmax([t["validation_auc"] for t in trials]))]
    network, log = _train(name, inputs, used, best, budget, passes=budget.passes, seed=seed)
    record = {
        "setting": _plain(best),
        "parameters": sum(p.numel() for p in network.parameters()),
        **log,
        "search": trials,
        "budget": asdict(budget),
        "seconds": round(time.monotonic() - started, 2),
    }
    return NeuralScores(log_odds_QK=predict(network, inputs, test), record=record)


def predict(
    network: Network, inputs: Inputs, targets: np.ndarray, *, batch: int = 2048
) -> np.ndarray:
    """Log-odds of targets in their order, float32, shape (targets, tasks)."""
    groups = network.groups(inputs)
    order = np.argsort(groups[targets], kind="stable") if groups is not None else None
    asked = targets if order is None else targets[order]
    network.eval()
    device = next(network.parameters()).device
    out = np.zeros((len(targets), network.out.out_features), np.float32)
    with torch.inference_mode():
        for a in range(0, len(asked), batch):
            part = torch.from_numpy(asked[a : a + batch]).to(device)
            rows = slice(a, a + batch) if order is None else order[a : a + batch]
            out[rows] = network(part).float().cpu().numpy()
    return out


def _train(
    name: str,
    inputs: Inputs,
    train: np.ndarray,
    setting: Setting,
    budget: Budget,
    *,
    passes: int,
    seed: int,
) -> tuple[Network, dict[str, Any]]:
    """Train until validation stops improving; the best weights looked at are kept."""
    fit, check = newest_out(train, inputs.hour_Q)
    check = check[-budget.check_rows :]
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = NETWORKS[name](inputs, setting.shape).to(device)
    _start_at_base_rates(network, inputs, fit)
    optimizer = torch.optim.AdamW(network.parameters(), lr=setting.lr, weight_decay=setting.decay)
    steps = max(1, passes * -(-len(fit) // budget.batch))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * (1 - 0.9 * min(1.0, step / steps))
    )
    looks: list[float] = []
    best = copy.deepcopy(network.state_dict())
    for part in _halves(_batches(network.groups(inputs), fit, budget.batch, rng), passes):
        network.train()
        for targets in part:
            _step(network, torch.from_numpy(targets).to(device), optimizer)
            schedule.step()
        looks.append(mean_auc(inputs, check, predict(network, inputs, check)))
        if looks[-1] >= max(looks):
            best = copy.deepcopy(network.state_dict())
        if len(looks) - 1 - int(np.argmax(looks)) >= budget.patience:
            break
    network.load_state_dict(best)
    return network, {
        "train_rows": len(fit),
        "validation_rows": len(check),
        "validation_auc": max(looks, default=0.5),
        "looks": looks,
    }


def _step(network: Network, targets: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    valid = network.t.valid_QK[targets]
    loss = functional.binary_cross_entropy_with_logits(
        network(targets)[valid], network.t.labels_QK[targets][valid]
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def _batches(
    groups: np.ndarray | None, fit: np.ndarray, batch: int, rng: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """Passes without end; a pass is a list of batches. Groups are shuffled, and stay together."""
    while True:
        if groups is None:
            order = rng.permutation(fit)
        else:
            _, code = np.unique(groups[fit], return_inverse=True)
            place = rng.permutation(code.max(initial=0) + 1)
            order = fit[np.argsort(place[code], kind="stable")]
        yield [order[a : a + batch] for a in range(0, len(order), batch)]


def _halves(passes: Iterator[list[np.ndarray]], count: int) -> Iterator[list[np.ndarray]]:
    for _ in range(count):
        batches = next(passes)
        middle = (len(batches) + 1) // 2
        yield from (part for part in (batches[:middle], batches[middle:]) if part)


def _start_at_base_rates(network: Network, inputs: Inputs, fit: np.ndarray) -> None:
    valid = inputs.valid_QK[fit]
    yes = (inputs.labels_QK[fit] * valid).sum(0) + 1.0
    no = ((1 - inputs.labels_QK[fit]) * valid).sum(0) + 1.0
    with torch.no_grad():
        network.out.bias.copy_(torch.from_numpy(np.log(yes / no).astype(np.float32)))


def mean_auc(inputs: Inputs, rows: np.ndarray, log_odds_QK: np.ndarray) -> float:
    """Mean AUC over tasks that show both classes among the rows, weighted by the root of rows."""
    values, weights = [], []
    for k in range(inputs.labels_QK.shape[1]):
        mine = inputs.valid_QK[rows, k]
        value = auc(inputs.labels_QK[rows[mine], k], log_odds_QK[mine, k]) if mine.any() else np.nan
        if np.isfinite(value):
            values.append(value)
            weights.append(mine.sum() ** 0.5)
    return float(np.average(values, weights=weights)) if values else 0.5


def newest(rows: np.ndarray, inputs: Inputs, count: int) -> np.ndarray:
    """The newest `count` of some targets."""
    return rows[np.argsort(inputs.hour_Q[rows], kind="stable")][-count:]


def sample(rows: np.ndarray, groups: np.ndarray | None, count: int, *, seed: int) -> np.ndarray:
    """Some `count` of the targets at random; whole groups, where there are any."""
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.permutation(rows)[:count]
    _, code = np.unique(groups[rows], return_inverse=True)
    place = rng.permutation(code.max(initial=0) + 1)
    return rows[np.argsort(place[code], kind="stable")][:count]


def _plain(setting: Setting) -> dict[str, Any]:
    return {"lr": setting.lr, "decay": setting.decay} | asdict(setting.shape)

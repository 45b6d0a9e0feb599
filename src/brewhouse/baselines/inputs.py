"""What neural baselines are fed: the same rows and features as LightGBM, as codes and numbers.

All tasks share one table of targets: a row's labels are those of every task of its surface.
Suffixes: _Q targets, _I items, _S slots of item fields, _E history events, _P profiles, _K tasks,
_F dense features, _D text vector, _W profile words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brewhouse.baselines.features import FeatureBuilder
from brewhouse.tasks.spec import Task

MIN_SEEN = 5
"""A value seen in fewer training rows shares the embedding of the unknown."""
_CLIP = 5.0
_PROFILE_WORDS = 32
_HOUR = 3_600_000_000


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Tables of targets, items, profiles and history events.

    Attributes:
        dense_QF: Features in units of their spread over training rows, float32.
        member_Q: Code of the member, 0 for one rarely trained on.
        item_Q: Item of each target.
        surface_Q: Surface code.
        profile_Q: Profile of each target's member at its moment.
        labels_QK: 1 for yes, float32.
        valid_QK: Whether the task asks about the target.
        fields_IS: Codes of an item's identity and values, 0 for unknown or none.
        slots: Which slots of `fields_IS` belong to one field.
        text_ID: Unit SVD vectors of item texts.
        profile_PD: Unit SVD vectors of profile texts.
        words_PW: Codes of a profile's words, 0 for none.
        event_item_E: Item of each history event; likewise action and surface.
        event_action_E: Action codes.
        event_surface_E: Surface codes.
        event_hour_E: When the event became known, hours since the first target, float32.
        start_Q: First event of the target's member in the event arrays.
        end_Q: One past the newest event known at the target's moment.
        hour_Q: Moment of the target, likewise.
        sizes: Number of codes of fields, members, words, actions, surfaces.
    """

    dense_QF: np.ndarray
    member_Q: np.ndarray
    item_Q: np.ndarray
    surface_Q: np.ndarray
    profile_Q: np.ndarray
    labels_QK: np.ndarray
    valid_QK: np.ndarray
    fields_IS: np.ndarray
    slots: tuple[tuple[int, ...], ...]
    text_ID: np.ndarray
    profile_PD: np.ndarray
    words_PW: np.ndarray
    event_item_E: np.ndarray
    event_action_E: np.ndarray
    event_surface_E: np.ndarray
    event_hour_E: np.ndarray
    start_Q: np.ndarray
    end_Q: np.ndarray
    hour_Q: np.ndarray
    sizes: dict[str, int]


def build_inputs(
    builder: FeatureBuilder, tasks: Sequence[Task], train: np.ndarray, keep: np.ndarray
) -> Inputs:
    """Tables for all tasks of a suite.

    Args:
        builder: Gives features, items, profiles and timelines.
        tasks: Tasks; their order is that of the outputs.
        train: Positions in `keep` of training rows: they alone say which codes exist and how
            features spread.
        keep: Target numbers that the tables hold, in this order.
    """
    t, log = builder.timelines, builder.log
    q = t.targets_Q[keep]
    item, member = log.item[q], log.member[q]
    labels, valid = _labels(builder, tasks, q)
    fields, slots, codes = _fields(builder, item[train])
    words, profile_PD, profile_Q = _profiles(builder, keep)
    members = _frequent(member[train], len(log.member_ids))
    start = t.offsets[member]
    zero = int(t.moment_Q[keep].min(initial=np.iinfo(np.int64).max))
    return Inputs(
        dense_QF=_standardised(_dense(builder, tasks, keep), train),
        member_Q=members[member],
        item_Q=item,
        surface_Q=log.surface[q],
        profile_Q=profile_Q,
        labels_QK=labels,
        valid_QK=valid,
        fields_IS=fields,
        slots=slots,
        text_ID=_unit(builder.text.item_D),
        profile_PD=profile_PD,
        words_PW=words,
        event_item_E=log.item[t.events_E],
        event_action_E=log.action[t.events_E],
        event_surface_E=log.surface[t.events_E],
        event_hour_E=((log.known_at[t.events_E] - zero) / _HOUR).astype(np.float32),
        start_Q=start,
        end_Q=start + t.branch_Q[keep],
        hour_Q=((t.moment_Q[keep] - zero) / _HOUR).astype(np.float32),
        sizes={
            "fields": codes,
            "members": int(members.max(initial=0)) + 1,
            "words": len(builder.text.vectorizer.idf_) + 1,
            "actions": len(log.actions),
            "surfaces": len(log.surfaces),
        },
    )


def _labels(
    builder: FeatureBuilder, tasks: Sequence[Task], q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    log = builder.log
    actions = np.array(log.actions, dtype=object)
    surfaces = np.array(log.surfaces, dtype=object)
    shape = (len(q), len(tasks))
    labels, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for k, task in enumerate(tasks):
        mine = (surfaces == task.surface)[log.surface[q]]
        yes = np.isin(actions, task.positive)[log.action[q]]
        no = np.isin(actions, task.negative)[log.action[q]]
        labels[:, k], valid[:, k] = yes & mine, mine & (yes | no)
    return labels, valid


def _dense(builder: FeatureBuilder, tasks: Sequence[Task], keep: np.ndarray) -> np.ndarray:
    """Shared features, then those of each task of the row's surface, side by side."""
    log, q = builder.log, builder.timelines.targets_Q[keep]
    shared = [i for i, n in enumerate(builder.shared().names) if not n.startswith("item_svd")]
    parts = [builder.shared().values_QF[np.ix_(keep, np.array(shared))]]
    by_surface: dict[str, list[Task]] = {}
    for task in tasks:
        by_surface.setdefault(task.surface, []).append(task)
    for place in range(max(map(len, by_surface.values()), default=0)):
        block = None
        for surface, asked in by_surface.items():
            if place >= len(asked) or surface not in log.surfaces:
                continue
            values = builder.for_task(asked[place].positive).values_QF[keep]
            block = np.zeros_like(values) if block is None else block
            rows = log.surface[q] == log.surfaces.index(surface)
            block[rows] = values[rows]
        if block is not None:
            parts.append(block)
    return np.concatenate(parts, axis=1)


def _standardised(values_QF: np.ndarray, train: np.ndarray) -> np.ndarray:
    values_QF = np.nan_to_num(values_QF)
    sample = values_QF[train] if len(train) else values_QF
    spread = sample.std(0)
    scaled = (values_QF - sample.mean(0)) / np.where(spread > 1e-6, spread, 1.0)
    return np.clip(scaled, -_CLIP, _CLIP).astype(np.float32)


def _fields(
    builder: FeatureBuilder, trained: np.ndarray
) -> tuple[np.ndarray, tuple[tuple[int, ...], ...], int]:
    """Codes of items in one numbering: identity first, then each match column with its slots."""
    columns = [[np.arange(len(builder.log.item_ids))]]
    columns += [builder.values(name) for name in builder.domain.items.match]
    table: list[np.ndarray] = []
    slots, used = [], 1
    for values in columns:
        stacked = np.stack(values)
        seen = stacked[:, trained]
        codes = _frequent(seen[seen >= 0], int(stacked.max(initial=0)) + 1)
        coded = np.where(stacked >= 0, codes[np.maximum(stacked, 0)], 0)
        slots.append(tuple(range(len(table), len(table) + len(values))))
        table += list(np.where(coded > 0, coded + used - 1, 0))
        used += int(codes.max(initial=0))
    return np.stack(table, axis=1), tuple(slots), used


def _frequent(seen: np.ndarray, size: int) -> np.ndarray:
    """New codes from 1 for values seen at least `MIN_SEEN` times, 0 for all others."""
    often = np.bincount(seen, minlength=size) >= MIN_SEEN
    return np.where(often, np.cumsum(often), 0)


def _profiles(
    builder: FeatureBuilder, keep: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    unique, inverse = np.unique(np.array(builder.profiles, dtype=object)[keep], return_inverse=True)
    tfidf = builder.text.vectorizer.transform(unique).tocsr()
    words = np.zeros((len(unique), _PROFILE_WORDS), np.int64)
    for p in range(len(unique)):
        part = slice(tfidf.indptr[p], tfidf.indptr[p + 1])
        heaviest = np.argsort(-tfidf.data[part], kind="stable")[:_PROFILE_WORDS]
        found = tfidf.indices[part][heaviest]
        words[p, : len(found)] = found + 1
    return words, _unit(builder.text.svd.transform(tfidf).astype(np.float32)), inverse


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

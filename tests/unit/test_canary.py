"""The canary scores 0.5 when time is respected, and betrays each rule that is broken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import Log, Timelines, build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.evaluation.metrics import auc
from brewhouse.prompts.builder import TreeBuilder, voices
from brewhouse.prompts.canary import CanaryBook, plant, sightings
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.tasks.suite import load_suite


@pytest.fixture(scope="module")
def scene(
    tiny: Snapshot, linkedin: DomainFolder, tokenizer: PromptTokenizer
) -> tuple[TreeBuilder, Log, np.ndarray, np.ndarray]:
    style = linkedin.domain.style
    voice = voices(
        linkedin.domain,
        load_suite(linkedin),
        tokenizer,
        items=tiny.read("items"),
        members=tiny.read("members"),
        styles=[style],
    )[style]
    watching = replace(voice, items=CanaryBook(voice.items))
    builder = TreeBuilder(domain=linkedin.domain, voices={style: watching})
    log = log_from_table(tiny.read("interactions", shards=[1]))
    trained = np.isin(np.array(log.surfaces), linkedin.domain.history_surfaces)[log.surface]
    rows = np.flatnonzero(trained)[-250:]
    positive = np.zeros(len(log), bool)
    positive[rows] = log.action[rows] != log.actions.index("none")
    return builder, plant(log, positive=positive, action=0), rows, positive


def sighted(builder: TreeBuilder, timelines: Timelines, rows: np.ndarray, y: np.ndarray) -> float:
    seen = sightings(builder.requests(timelines))
    log = timelines.log
    return auc(y[rows].astype(float), np.array([seen[log.interaction_id[r]] for r in rows]))


def test_no_prompt_tells_the_future(scene, linkedin: DomainFolder) -> None:
    builder, log, rows, positive = scene
    timelines = build_timelines(
        log, history_surfaces=linkedin.domain.history_surfaces, targets=rows
    )
    assert sighted(builder, timelines, rows, positive) == 0.5


@pytest.mark.parametrize("rule", ["equal timestamp", "late created_at", "session mate"])
def test_a_broken_rule_is_betrayed(scene, linkedin: DomainFolder, rule: str) -> None:
    builder, log, rows, positive = scene
    surfaces = linkedin.domain.history_surfaces
    if rule == "late created_at":
        log = replace(log, created_at=log.event_at)
        broken = build_timelines(log, history_surfaces=surfaces, targets=rows)
    else:
        right = build_timelines(log, history_surfaces=surfaces, targets=rows)
        shift = 1 if rule == "equal timestamp" else 2
        limit = right.moment_Q + shift
        known = [
            int((log.known_at[right.events_E[a:b]] < t).sum())
            for a, b, t in zip(
                right.offsets[log.member[rows]],
                right.offsets[log.member[rows] + 1],
                limit,
                strict=True,
            )
        ]
        broken = replace(right, branch_Q=np.array(known), moment_Q=limit)
    assert sighted(builder, broken, rows, positive) > 0.6

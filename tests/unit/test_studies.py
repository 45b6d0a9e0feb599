"""What studies train and evaluate, and that nothing of it is done twice."""

from __future__ import annotations

import pytest

from brewhouse.errors import ConfigError, DataError
from brewhouse.stages.variant import Variant
from brewhouse.studies.findings import conclude
from brewhouse.studies.plan import (
    STUDIES,
    check_studies,
    evaluations,
    load_preset,
    trainings,
)
from brewhouse.training.config import parse_train_config


@pytest.mark.parametrize("name", ["tiny", "demo", "gpu"])
def test_presets_make_runs_that_are_valid(name: str) -> None:
    preset = load_preset(name)
    models = trainings(preset, list(STUDIES))
    names = [m.name for m in models]
    assert len(set(names)) == len(names)
    for model in models:
        if model.options:
            parse_train_config({"data": "d", "out": "o"} | model.options, where=model.name)
    asked = evaluations(preset, list(STUDIES))
    assert {one.training for one in asked} == set(names)
    for one in asked:
        Variant.parse(one.variant)
    ways = [(one.training, str(one.variant)) for one in asked]
    assert len(set(ways)) == len(ways), "no model is asked the same way twice"


def test_a_study_takes_what_it_needs_alone() -> None:
    preset = load_preset("demo")
    assert [m.name for m in trainings(preset, ["temporal"])] == [preset.full]
    names = [one.name for one in evaluations(preset, ["temporal"])]
    assert names == [preset.full, "temporal-frozen"]
    (full,) = evaluations(preset, ["cold_start"])
    assert full.caps == [0, 5, 10, 100]


def test_mistakes_are_told() -> None:
    assert check_studies([]) == list(STUDIES)
    assert check_studies(["temporal", "data"]) == ["data", "temporal"]
    with pytest.raises(ConfigError, match="unknown study 'tempral'; choose from data, model"):
        check_studies(["tempral"])
    with pytest.raises(DataError, match=r"evaluation 'data-0' is missing \(there: none\)"):
        conclude("data", load_preset("demo"), {})
    with pytest.raises(ConfigError, match="variant: frosen"):
        Variant.parse({"frosen": True})

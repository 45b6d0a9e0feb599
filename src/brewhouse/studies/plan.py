"""What a study trains and evaluates: a preset in YAML -> trainings and evaluations, by name.

Studies share work: one training is evaluated many ways, one set of prompts asks many models.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from brewhouse.domains.loader import parse_model, read_yaml
from brewhouse.domains.strict import Strict
from brewhouse.errors import ConfigError

StudyName = Literal["data", "model", "history", "out_of_domain", "cold_start", "temporal"]
STUDIES: tuple[StudyName, ...] = get_args(StudyName)


class DataScaling(Strict):
    """Figure 2: the same model on more and more data."""

    tokens: list[int] = Field(min_length=2, description="Fine-tuning tokens, rising; 0 is the base")


class ModelScaling(Strict):
    """Figure 3: models of several sizes on the same data, from scratch."""

    sizes: list[str] = Field(min_length=2, description="Named sizes, the smallest first")
    recall: int = Field(ge=1, description="Tokens of made-up histories at most")
    trunks: int = Field(ge=1, description="Tokens of action words along trunks")
    tokens: int = Field(ge=1, description="Tokens of questions")


class HistoryScaling(Strict):
    """Figure 4: more and more history in the prompt, beyond what was trained on."""

    events: list[int] = Field(min_length=2, description="Most events of a history, rising")
    tokens_per_event: int = Field(default=8, ge=1, description="Room in a trunk for one event")
    short_trunk: int = Field(ge=16, description="Tokens of a trunk where training is short")
    short_tokens: int = Field(ge=1, description="Fine-tuning tokens of that training")


class StudyPreset(Strict):
    """Everything that the studies of one size depend on."""

    name: str
    domain: str = "linkedin"
    world: str = Field(description="Preset of the simulated world")
    seed: int = Field(description="Of the world; not one that a shipped model was trained on")
    base: str = Field(description="Model that fine-tuning starts from")
    max_test_sessions: int = Field(ge=1)
    horizons_weeks: list[int] = Field(min_length=2, description="Of the temporal study; first 0")
    processes: int = Field(default=2, ge=1)
    resamples: int = Field(default=500, ge=50)
    lr: float = Field(default=1e-3, gt=0)
    batch_tokens: int = Field(default=4096, ge=64)
    data: DataScaling
    model: ModelScaling
    history: HistoryScaling
    cold: list[int] = Field(min_length=1, description="Most known interactions of a member")

    @property
    def full(self) -> str:
        """The training on all data, which most studies evaluate."""
        return f"data-{max(self.data.tokens)}"


class Training(Strict):
    """One model to train."""

    name: str
    options: dict[str, Any] = Field(description="Fields of TrainConfig; none for the base itself")


class Evaluation(Strict):
    """One model asked in one way."""

    name: str
    training: str
    variant: dict[str, Any] = Field(default={}, description="Fields of Variant")
    caps: list[int] = Field(
        default=[], description="Also judge rows of members with at most so many interactions"
    )


def load_preset(name: str) -> StudyPreset:
    """Read a preset that comes with the project, or a YAML file.

    Raises:
        ConfigError: No such preset, or one with mistakes.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = Path(str(resources.files("brewhouse.studies") / "presets" / f"{name}.yaml"))
    value, lines = read_yaml(path)
    return parse_model(StudyPreset, value, path=path, lines=lines)


def check_studies(names: list[str]) -> list[StudyName]:
    """The studies named, all of them if none is.

    Raises:
        ConfigError: An unknown name.
    """
    if unknown := [name for name in names if name not in STUDIES]:
        msg = f"unknown study '{unknown[0]}'; choose from {', '.join(STUDIES)}"
        raise ConfigError(msg)
    return [study for study in STUDIES if not names or study in names]


def trainings(preset: StudyPreset, studies: list[StudyName]) -> list[Training]:
    """Models that the studies need, each once."""
    tokens = preset.data.tokens if "data" in studies else [max(preset.data.tokens)]
    found = [
        Training(name=f"data-{n}", options=_options(preset, preset.base, [_tune(preset, n)]))
        if n
        else Training(name="data-0", options={})
        for n in tokens
    ]
    if "model" in studies:
        found += [
            Training(name=f"model-{size}", options=_options(preset, size, _scratch(preset)))
            for size in preset.model.sizes
        ]
    if "history" in studies:
        stage = _tune(preset, preset.history.short_tokens)
        stage["max_trunk"] = preset.history.short_trunk
        found.append(Training(name="short", options=_options(preset, preset.base, [stage])))
    return found


def evaluations(preset: StudyPreset, studies: list[StudyName]) -> list[Evaluation]:
    """Models and ways of asking that the studies need, each once."""
    found: dict[str, Evaluation] = {}

    def add(name: str, training: str, caps: list[int] | None = None, **variant: Any) -> None:
        found[name] = Evaluation(name=name, training=training, variant=variant, caps=caps or [])

    for one in trainings(preset, studies):
        if one.name != "short":
            cold = "cold_start" in studies and one.name == preset.full
            add(one.name, one.name, preset.cold if cold else None)
    if "history" in studies:
        for events in preset.history.events:
            room = 64 + preset.history.tokens_per_event * events
            for training, label in ((preset.full, "long"), ("short", "short")):
                name = f"history-{events}-{label}"
                add(name, training, max_events=events, max_tokens=room)
    if "temporal" in studies:
        # With fresh history the model is asked as ever.
        add("temporal-frozen", preset.full, frozen=True)
    return list(found.values())


def _options(preset: StudyPreset, model: str, stages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": model, "batch_tokens": preset.batch_tokens, "stages": stages}


def _tune(preset: StudyPreset, tokens: int) -> dict[str, Any]:
    return {
        "name": "finetune",
        "shards": "train",
        "loss": "both",
        "tokens": tokens,
        "lr": preset.lr,
    }


def _scratch(preset: StudyPreset) -> list[dict[str, Any]]:
    held = {"loss": "actions", "decay": False}
    spec = preset.model
    return [
        {"name": "recall", "primer": {}, "tokens": spec.recall, "lr": 4e-3, **held},
        {"name": "trunks", "shards": "cpt", "tokens": spec.trunks, "lr": 1e-3, **held},
        _tune(preset, spec.tokens),
    ]

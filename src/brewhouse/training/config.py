"""What a training run is told; read from and written to JSON beside its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from brewhouse.domains.spec import Strict
from brewhouse.errors import ConfigError
from brewhouse.files import read_json


class PrimerSpec(Strict):
    """Made-up histories in which answers hang on a repeated key; they grow harder by themselves."""

    keys: int = Field(default=8, ge=2, le=16, description="Most keys of a sequence; begins with 2")
    words: int = Field(
        default=16,
        ge=2,
        description="Words that keys are drawn from: those that most often stand "
        "in front of answers in trunks",
    )
    events: int = Field(default=16, ge=2, description="Events of a sequence of two keys")
    fillers: int = Field(default=1, ge=0, description="Random words in front of a key")
    grow_below: float = Field(
        default=0.9,
        gt=0,
        description="A key more once the mean loss of 50 steps is below this; a yes may be any of "
        "several answers, so it does not go to nought",
    )


class Stage(Strict):
    """One stage of training."""

    name: str = Field(description="cpt or finetune, or a name of your own")
    shards: str = Field(default="", description="Sub-folder of the data: cpt or train")
    primer: PrimerSpec | None = Field(
        default=None, description="Train on made-up histories instead of shards"
    )
    loss: Literal["tokens", "actions", "answers", "both"] = Field(
        description="tokens: next token over trunks; actions: of those only the action words; "
        "answers: answer words of leaves; both: actions and answers"
    )
    max_trunk: int | None = Field(
        default=None,
        ge=16,
        description="Cut trunks after so many tokens, with the leaves beyond: short histories are "
        "learned from sooner",
    )
    tokens: int = Field(
        gt=0, description="Token budget over all ranks; a primer ends when all its keys are learned"
    )
    lr: float = Field(gt=0, description="Peak learning rate")
    decay: bool = Field(
        default=True, description="Cosine decay to a twentieth of lr; else lr is held after warm-up"
    )
    warmup: float = Field(default=0.05, ge=0, lt=1, description="Share of the budget to warm up")

    @model_validator(mode="after")
    def _one_source(self) -> Stage:
        if bool(self.shards) == (self.primer is not None):
            msg = f"stage {self.name}: give either shards or primer, not both or neither"
            raise ValueError(msg)
        if self.primer is not None and self.loss != "actions":
            msg = f"stage {self.name}: a primer has no leaves; set loss to actions"
            raise ValueError(msg)
        return self


class TrainConfig(Strict):
    """A training run. Paths are absolute or relative to the working directory."""

    data: Path = Field(description="Folder of token shards with manifest.json")
    out: Path = Field(description="Folder for checkpoints, metrics and the exported model")
    model: str = Field(default="tiny", description="Size name, or folder or hub id of a model")
    stages: list[Stage] = Field(min_length=1)
    batch_tokens: int = Field(default=4096, ge=64, description="Tokens a rank takes in a step")
    weight_decay: float = Field(default=0.05, ge=0)
    clip: float = Field(default=1.0, gt=0, description="Gradient norm bound")
    token_loss_weight: float = Field(default=0.5, ge=0, description="Weight of actions in `both`")
    router_aux: float = Field(default=0.01, ge=0, description="Weight of the load-balancing loss")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="DeepSpeed ZeRO stage")
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_steps: int = Field(default=200, ge=1, description="Steps between checkpoints")
    keep_checkpoints: int = Field(default=2, ge=1)
    seed: int = 0

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Read a JSON file.

        Raises:
            ConfigError: A field is missing, unknown or out of range.
        """
        return parse_train_config(read_json(path), where=str(path))


def parse_train_config(value: Any, *, where: str) -> TrainConfig:
    """Validate a training configuration.

    Raises:
        ConfigError: A field is missing, unknown or out of range.
    """
    try:
        return TrainConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        msg = f"{where}: {field}: {first['msg']} (got {first['input']!r})"
        raise ConfigError(msg) from error

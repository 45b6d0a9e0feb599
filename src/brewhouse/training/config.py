"""What a training run is told; read from and written to JSON beside its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from brewhouse.domains.strict import Strict
from brewhouse.errors import ConfigError
from brewhouse.files import read_json

T = TypeVar("T", bound=Strict)


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
    unseen: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of sequences that ask whether a key stands in the history at all, where "
        "surfaces log only what was done (their negatives are drawn)",
    )
    fillers: int = Field(default=1, ge=0, description="Random words in front of a key")
    grow_below: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="A key more once the mean loss of 50 steps lies below this, as a share of the "
        "way from all that can be known (0) to a guess of yes or no (1)",
    )


class TasteSpec(Strict):
    """Made-up members who care for a few words, told by events and questions of the run's own."""

    words: int = Field(default=6, ge=1, le=64, description="Most words that a member cares for")
    least: int = Field(
        default=12, ge=1, description="Events, and questions, that hold a word to care for"
    )
    common: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of events that hold a word to care for, at most: words that stand "
        "everywhere are nobody's taste",
    )
    noise: float = Field(
        default=0.4, ge=0, le=1, description="Share of a history, at most, that no taste explains"
    )
    profile: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Share of members whose profile names the words of what they did before",
    )
    questions: int = Field(default=24, ge=1, description="Questions a member")


class Stage(Strict):
    """One stage of training."""

    name: str = Field(description="cpt or finetune, or a name of your own")
    shards: str = Field(default="", description="Sub-folder of the data: cpt or train")
    primer: PrimerSpec | None = Field(
        default=None, description="Train on made-up histories instead of shards"
    )
    tastes: TasteSpec | None = Field(
        default=None, description="Train on made-up members instead of shards"
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
    history_dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of trees whose questions are all asked where the first one hangs: with "
        "little or no history they must be answered from the profile, as newcomers' are",
    )
    word_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of word tokens, never marks or answers, that are blotted out anew each "
        "time: a small data set seen many times is then not learned by heart",
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
        made_up = next((n for n in ("primer", "tastes") if getattr(self, n) is not None), "")
        if [bool(self.shards), self.primer is not None, self.tastes is not None].count(True) != 1:
            msg = f"stage {self.name}: give one of shards, primer and tastes"
            raise ValueError(msg)
        if self.primer is not None and self.loss != "actions":
            msg = f"stage {self.name}: a primer brings its own questions; set loss to actions"
            raise ValueError(msg)
        if self.tastes is not None and self.loss != "both":
            msg = f"stage {self.name}: tastes come with trunks and questions; set loss to both"
            raise ValueError(msg)
        if made_up and (self.word_dropout or self.history_dropout):
            msg = (
                f"stage {self.name}: no dropout with {made_up}; leave history_ and word_dropout out"
            )
            raise ValueError(msg)
        if made_up and self.max_trunk is not None:
            msg = f"stage {self.name}: {made_up} makes its own trunks; leave max_trunk out"
            raise ValueError(msg)
        if self.word_dropout and self.loss == "tokens":
            msg = f"stage {self.name}: word_dropout would blot out what loss tokens is to predict"
            raise ValueError(msg)
        return self


class Lora(Strict):
    """Low-rank adapters on a frozen base (arXiv:2106.09685): training for a small budget."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1, description="Adapters are scaled by alpha / rank")
    targets: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj"],
        min_length=1,
        description="Names of the linear layers that get an adapter",
    )
    experts: bool = Field(default=False, description="Whether expert weights get adapters too")


class TrainConfig(Strict):
    """A training run. Paths are absolute or relative to the working directory."""

    data: Path = Field(description="Folder of token shards with manifest.json")
    out: Path = Field(description="Folder for checkpoints, metrics and the exported model")
    model: str = Field(default="tiny", description="Size name, or folder or hub id of a model")
    stages: list[Stage] = Field(min_length=1)
    batch_tokens: int = Field(default=4096, ge=64, description="Tokens of a micro-batch")
    micro_batches: int | None = Field(
        default=None,
        ge=1,
        description="Micro-batches of a step over all ranks, a multiple of their number; one a "
        "rank if empty. A run that is resumed keeps the number it began with",
    )
    weight_decay: float = Field(default=0.05, ge=0)
    clip: float = Field(default=1.0, gt=0, description="Gradient norm bound")
    token_loss_weight: float = Field(default=0.5, ge=0, description="Weight of actions in `both`")
    router_aux: float = Field(default=0.01, ge=0, description="Weight of the load-balancing loss")
    router_max_cv: float = Field(
        default=1.0,
        gt=0,
        description="A layer whose load varies by more of its mean than this is warned of; so is "
        "an expert without tokens",
    )
    lora: Lora | None = Field(default=None, description="Train adapters on a frozen model")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="DeepSpeed ZeRO stage")
    offload: Literal["none", "optimizer", "parameters"] = Field(
        default="none",
        description="What ZeRO keeps in CPU memory: optimizer state (stages 1 to 3), or that and "
        "parameters (stage 3)",
    )
    expert_parallel: int = Field(
        default=1, ge=1, description="Ranks that a layer's experts are spread over; with ZeRO 1"
    )
    precision: Literal["float32", "bfloat16"] = "float32"
    activation_checkpointing: bool = Field(
        default=False, description="Recompute layers in the backward pass instead of keeping them"
    )
    compile: bool = Field(default=False, description="Compile each layer with torch.compile")
    checkpoint_steps: int = Field(default=200, ge=1, description="Steps between checkpoints")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Newest checkpoints kept; the best is kept besides"
    )
    upload: str = Field(
        default="",
        description="URI (s3://, gs://, file://) that checkpoints are copied to in the background "
        "and resumed from; none if empty",
    )
    report_s: float = Field(
        default=5.0, ge=0, description="Seconds between reports of progress; 0 reports every step"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _modes_that_go_together(self) -> TrainConfig:
        stage, ranks = self.zero_stage, self.expert_parallel
        if self.offload == "optimizer" and stage == 0:
            msg = "offload: 'optimizer' needs zero_stage 1, 2 or 3 (got 0)"
            raise ValueError(msg)
        if self.offload == "parameters" and stage != 3:
            msg = f"offload: 'parameters' needs zero_stage 3 (got {stage})"
            raise ValueError(msg)
        if ranks > 1 and stage != 1:
            msg = (
                f"expert_parallel: {ranks} goes with zero_stage 1 (got {stage}); with zero_stage 3 "
                "leave it at 1, for experts are then gathered block by block"
            )
            raise ValueError(msg)
        if ranks > 1 and self.lora is not None:
            msg = f"expert_parallel: {ranks} does not go with lora; set it to 1"
            raise ValueError(msg)
        return self

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
    return parse_settings(TrainConfig, value, where=where)


def parse_settings(kind: type[T], value: Any, *, where: str) -> T:
    """Validate settings of a kind.

    Raises:
        ConfigError: A field is missing, unknown or out of range; the first fault is told.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        if not field:
            msg = f"{where}: {first['msg'].removeprefix('Value error, ')}"
        else:
            msg = f"{where}: {field}: {first['msg']} (got {first['input']!r})"
        raise ConfigError(msg) from error

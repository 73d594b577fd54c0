"""The settings of a run: what a resolved config must fit. The only schema of the project.

A run's settings are *semantic* (they decide the result, and so the run's identity) except for the fields of
``Settings`` named in ``MACHINE_FIELDS``, which say where and how it runs.
"""

import difflib
import json
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from reltrust.errors import SettingsError

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


# --- what is trained -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MlpDepth:
    """The depth benchmark of arXiv 2002.03432, figure 3 (left): a deep perceptron that classifies digits."""

    protocol: ClassVar[int] = 1  # raised when the mathematics of the task changes: old results are then not reused
    axes: ClassVar[tuple[str, ...]] = ("hidden_layers",)  # what the figure varies, besides optimizer and seed

    shape: ClassVar[tuple[str, ...] | None] = ("hidden_layers", "width")  # alike in runs that are packed; None: never

    name: Literal["mlp_depth"]
    hidden_layers: Annotated[int, Field(ge=1, le=10_000)]
    width: Positive
    init: Literal["torch", "he"]

    @property
    def slug(self) -> str:
        return f"depth{self.hidden_layers}"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Data:
    """Which images; see configs/data for their sources."""

    name: Literal["mnist", "digits", "mnist5k"]


# --- how it is trained -----------------------------------------------------------------------------------------------

_Beta = Annotated[float, Field(ge=0, lt=1)]

# The hyperparameters that optimizers of this field share, with their ranges: a bad value is refused without importing
# torch. A name that is not listed here is checked by the optimizer's own constructor, still before any work starts.
_HYPERPARAMETERS: dict[str, Any] = {
    "momentum": Annotated[float, Field(ge=0)],
    "dampening": float,
    "nesterov": bool,
    "weight_decay": Annotated[float, Field(ge=0)],
    "betas": Annotated[list[_Beta], Field(min_length=2, max_length=2)],
    "beta": _Beta,
    "eps": Annotated[float, Field(ge=0)],
    "amsgrad": bool,
    "p_bound": Annotated[float, Field(ge=0)] | None,
    "p_scale": Annotated[float, Field(gt=0)],
    "g_bound": Annotated[float, Field(gt=0)],
    "base_lr": Annotated[float, Field(gt=0)],
    "levels": Annotated[int, Field(ge=2, le=65_536)],
    "init": Literal["quantize", "random"],
    "grad_averaging": bool,
}


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Optimizer:
    """``target(params, lr=lr, **hyperparameters)`` is the optimizer; ``name`` stands in tables and figures."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    target: Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")]
    lr: Annotated[float, Field(gt=0)]
    hyperparameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Exponential:
    """The learning rate is multiplied by ``decay`` after every ``every`` steps."""

    name: Literal["exponential"]
    decay: Annotated[float, Field(gt=0, le=1)]
    every: Positive


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Milestones:
    """The learning rate is multiplied by ``decay`` at each of the steps ``at``."""

    name: Literal["milestones"]
    decay: Annotated[float, Field(gt=0, le=1)]
    at: list[Positive]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Constant:
    """The learning rate stays as it is."""

    name: Literal["constant"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Training:
    """The length of the run in steps, and when it is looked at (a metrics row, an evaluation)."""

    steps: Positive
    batch_size: Positive
    log_every: Positive
    evaluate_every: Positive


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Trainer:
    """How a step is computed."""

    precision: Literal["fp32", "tf32", "bf16"]


# --- where it runs: no part of a run's identity -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Machine:
    """Where a run computes and keeps its files."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")]
    threads: Positive | None
    results: str
    data: str
    checkpoint_minutes: Seconds
    progress: bool


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Tracking:
    """Whether Weights & Biases mirrors the run's record."""

    mode: Literal["none", "wandb_offline", "wandb"]
    project: Annotated[str, Field(min_length=1)]
    entity: str | None
    timeout_seconds: Seconds


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Launcher:
    """How the packed launcher shares a machine among the runs of a multirun; other launchers have no settings."""

    max_members: Positive | None = None
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.7
    require_packing: bool = False
    workers: Positive | None = None


COMMAND_KEYS = (
    "scale",
    "sweep",
    "dry_run",
    "launcher",
)  # keys of a config that choose other keys or the command's behaviour
TRAINING_EXAMPLES = {"mnist": 60_000, "digits": 1_500, "mnist5k": 4_500}
MACHINE_FIELDS = ("machine", "tracking")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Settings:
    """Everything that is known about a run before it starts."""

    experiment: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    task: MlpDepth
    data: Data
    optimizer: Optimizer
    schedule: Annotated[Exponential | Milestones | Constant, Field(discriminator="name")]
    training: Training
    trainer: Trainer
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    machine: Machine
    tracking: Tracking


# --- from a plain mapping to settings, with errors for people ---------------------------------------------------------


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema, config=None if is_dataclass(schema) else _STRICT)


def parse(config: Any) -> Settings:
    """Settings from a resolved config (plain dicts, lists and scalars).

    Raises:
        SettingsError: an unknown key, a missing one, a value of the wrong type or out of its range.
    """
    if "launcher" in config:
        parse_launcher(config["launcher"])
    config = {key: value for key, value in config.items() if key not in COMMAND_KEYS}
    if isinstance(config.get("optimizer"), dict):
        config["optimizer"] = _gather_hyperparameters(config["optimizer"])
    settings: Settings = _validate(Settings, config)
    _check_together(settings)
    return settings


def parse_launcher(config: Any) -> Launcher:
    """The settings of the packed launcher.

    Raises:
        SettingsError: as :func:`parse`.
    """
    launcher: Launcher = _validate(Launcher, config, ("launcher",))
    return launcher


def _gather_hyperparameters(optimizer: dict[str, Any]) -> dict[str, Any]:
    """In a config the hyperparameters stand beside ``lr``; in the settings they are a mapping of their own."""
    own = {f.name for f in fields(Optimizer)} - {"hyperparameters"}
    hyperparameters = {
        key: _validate(_HYPERPARAMETERS.get(key, Any), value, ("optimizer", key))
        for key, value in optimizer.items()
        if key not in own
    }
    return {k: v for k, v in optimizer.items() if k in own} | {"hyperparameters": hyperparameters}


def _validate(schema: Any, value: Any, prefix: tuple[str, ...] = ()) -> Any:
    try:
        text = json.dumps(value, allow_nan=schema is not Any)
    except ValueError:
        raise SettingsError(f"{'.'.join(prefix)}={value!r}: must be a finite number") from None
    try:
        # By way of JSON, so that "strict" means strict scalars and still builds the dataclasses from mappings.
        return _adapter(schema).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(_explain(first, prefix, schema)) from None


def _explain(error: Any, prefix: tuple[str, ...], schema: Any) -> str:
    tags = {"exponential", "milestones", "constant"} if "schedule" in error["loc"] else set()
    path = [str(part) for part in (*prefix, *error["loc"]) if part not in tags]
    key = ".".join(path)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        allowed = _allowed_keys(schema, error["loc"][:-1])
        if schema is Settings and len(path) == 1:
            allowed = sorted({*allowed, *COMMAND_KEYS})
        close = difflib.get_close_matches(path[-1], allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{key}={error['input']!r}: unknown key, allowed are {', '.join(allowed)}{hint}"
    if error["type"] == "union_tag_invalid":
        return f"{key}.name={error['ctx']['tag']!r}: unknown, allowed are {error['ctx']['expected_tags']}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{key}: missing"
    message = error["msg"].replace("Input should be", "must be").replace("String should match pattern", "must match")
    return f"{key}={error['input']!r}: {message[0].lower()}{message[1:]}"


def _allowed_keys(schema: Any, loc: tuple[Any, ...]) -> list[str]:
    for part in loc:
        kinds = {"exponential": Exponential, "milestones": Milestones, "constant": Constant}
        schema = kinds.get(part) or {f.name: f.type for f in fields(schema)}.get(part, schema)
    return sorted(f.name for f in fields(schema)) if is_dataclass(schema) else []


def _check_together(settings: Settings) -> None:
    """What no single field can know."""
    training = settings.training
    examples = TRAINING_EXAMPLES[settings.data.name]
    if training.batch_size > examples:
        raise SettingsError(
            f"training.batch_size={training.batch_size}: must be at most the {examples} training examples of "
            f"data={settings.data.name}"
        )
    for key in ("log_every", "evaluate_every"):
        value = getattr(training, key)
        if value > training.steps:
            raise SettingsError(f"training.{key}={value}: must be at most training.steps={training.steps}")
    if training.evaluate_every % training.log_every:
        raise SettingsError(
            f"training.evaluate_every={training.evaluate_every}: must be a multiple of "
            f"training.log_every={training.log_every}"
        )
    if training.steps % training.log_every:
        raise SettingsError(
            f"training.steps={training.steps}: must be a multiple of training.log_every={training.log_every}"
        )

"""The settings of a run: what a resolved config must fit, whatever the experiment.

A run's settings are *semantic* (they decide the result, and so the run's identity) except for the fields of
``Settings`` named in ``MACHINE_FIELDS``, which say where and how it runs, and ``optimizer.style``.
"""

import json
from collections.abc import Collection
from dataclasses import field, fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from reltrust import experiment, messages
from reltrust.data.sizes import TRAINING_EXAMPLES, ImageSet, RgbSet, TextSet
from reltrust.errors import SettingsError
from reltrust.schedules import Schedule
from reltrust.schema import STRICT, Name, NotEmpty, Positive, Seconds

if TYPE_CHECKING:
    from reltrust.experiment import Subject
else:
    Subject = Any  # validated by the experiment's own class, before the rest

# --- what decides the result ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Which images, or which text; see configs/data for their sources."""

    name: ImageSet | RgbSet | TextSet


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Style:
    """How an optimizer is drawn; no part of a run's identity."""

    label: NotEmpty | None = None
    color: Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")] | None = None
    marker: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    dash: list[Seconds] | None = None  # lengths drawn and left out in turn; empty: a solid line


_Target = Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")]
_Lr = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rest:
    """As ``Optimizer``: what moves the parameters that are no matrices, or are an embedding's, for one of matrices."""

    target: _Target
    lr: _Lr
    hyperparameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """``target(params, lr=lr, **hyperparameters)`` is the optimizer, which knows the ranges of what it is given."""

    name: Name
    target: _Target
    lr: _Lr
    rest: Rest | None = None  # None: all parameters are moved by one
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # the gradients' norm over all parameters is at most this
    schedule: Annotated[Schedule, Field(discriminator="name")] | None = None  # in the place of the run's
    style: Style = Style()
    players: dict[str, "Optimizer"] = field(default_factory=dict)  # those of a task's players that differ
    hyperparameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Training:
    """Length and batches of a run, and after how many steps there is a metrics row, and an evaluation."""

    steps: Positive
    batch_size: Positive
    log_every: Positive
    evaluate_every: Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Trainer:
    """How a step is computed."""

    precision: Literal["fp32", "tf32", "bf16"]
    accumulate: Positive = 1  # parts of a batch, whose gradients are added up


# --- where it runs: no part of a run's identity -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Machine:
    """Where a run computes and keeps its files."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")]
    threads: Positive | None  # at most the machine's cores, which the machine itself knows
    results: NotEmpty
    data: NotEmpty
    checkpoint_minutes: Seconds
    progress: bool
    compile: bool = False  # of what trains alone: the modules, by torch.compile
    shard: bool = False  # of several processes each holds a share of the parameters and of what belongs to them
    recompute: bool = False  # of what trains alone: blocks are computed again in the backward pass, and not kept
    keep: Literal["nothing", "weights", "checkpoint"] = "nothing"  # of a finished training, besides its record


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tracking:
    """Whether Weights & Biases mirrors the run's record."""

    mode: Literal["none", "wandb_offline", "wandb"]
    project: NotEmpty
    entity: NotEmpty | None
    timeout_seconds: Seconds


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Launcher:
    """How the runs of a multirun share a machine."""

    max_members: Positive | None = None
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.7
    require_packing: bool = False
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cluster(Launcher):
    """How a sweep is dealt out to jobs of a cluster. Each is to its runs what ``Launcher`` is on one machine.

    ``workers`` are processes in a job; None: one for each of its ``cpus``, on a GPU one.
    """

    packs_per_job: Positive = 1
    parallel_jobs: Positive = 64
    cpus: Positive = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    memory_gb: Annotated[float, Field(gt=0)] = 4.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Slurm(Cluster):
    """Jobs of SLURM; what is None is left to the cluster's defaults."""

    engine: Literal["slurm"]
    job_name: NotEmpty = "reltrust"
    minutes: Positive = 60
    partition: NotEmpty | None = None
    account: NotEmpty | None = None
    qos: NotEmpty | None = None
    warn_seconds: Positive = 90  # before the minutes are over; checkpoints are to be left in that time
    requeues: Annotated[int, Field(ge=0)] = 100  # after as many ends of its minutes a job is not asked for again
    wait: bool = True
    folder: NotEmpty = "slurm"  # logs and what submitit hands to jobs; all machines see it
    setup: list[str] = field(default_factory=list)  # shell commands before a job begins
    options: list[Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=.*)?$")]] = field(default_factory=list)  # of sbatch


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Ray(Cluster):
    """Tasks of Ray."""

    engine: Literal["ray"]
    address: NotEmpty | None = None  # of a cluster; None: one that lasts as long as the sweep, on this machine
    local_cpus: Positive | None = None  # that the latter has; None: its cores
    retries: Annotated[int, Field(ge=-1)] = 3  # of a task whose process died; -1: without end


# They choose other keys, or what the command does.
COMMAND_KEYS = ("scale", "sweep", "dry_run", "retry_failed", "objective", "launcher")
MACHINE_FIELDS = ("machine", "tracking")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """Everything that is known about a run before it starts. A part that an experiment has no use for is None."""

    experiment: Name
    task: Subject
    data: Data | None = None
    optimizer: Optimizer | None = None
    schedule: Annotated[Schedule, Field(discriminator="name")] | None = None
    training: Training | None = None  # None: an analysis, which has neither optimizer nor schedule
    trainer: Trainer
    seed: Annotated[int, Field(ge=0, lt=2**32)]  # of a longer one the generators of CPUs would know the low half alone
    machine: Machine
    tracking: Tracking

    @property
    def trained(self) -> tuple[Optimizer, Schedule, Training]:
        """What only runs that train have.

        Raises:
            SettingsError: the run is an analysis.
        """
        if self.optimizer is None or self.lr_schedule is None or self.training is None:
            raise SettingsError(f"training=null: experiment={self.experiment} is trained and needs it")
        return self.optimizer, self.lr_schedule, self.training

    @property
    def lr_schedule(self) -> Schedule | None:
        """What the learning rate follows: the optimizer's own schedule, or that of all; None: an analysis."""
        return (self.optimizer and self.optimizer.schedule) or self.schedule

    def data_among(self, allowed: Collection[str], kind: str) -> str:
        """The name of the data, which is one of these.

        Raises:
            SettingsError: it is another, or there is none.
        """
        name = None if self.data is None else self.data.name
        if name is None or name not in allowed:
            given = name or "null"
            raise SettingsError(f"data={given}: experiment={self.experiment} needs {kind}: {', '.join(allowed)}")
        return name

    def check_batch(self, examples: int | None, available: int) -> None:
        """That as many training examples (None: all) are there as ``task.examples`` says, and a batch is of no more.

        Raises:
            SettingsError: they are not.
        """
        if examples is not None and examples > available:
            name = None if self.data is None else self.data.name
            raise SettingsError(f"task.examples={examples}: must be at most the {available} of data={name}")
        _, _, training = self.trained
        if training.batch_size > (count := examples or available):
            raise SettingsError(f"training.batch_size={training.batch_size}: must be at most {count}, task.examples")


# --- from a plain mapping to settings, with errors for people ---------------------------------------------------------


def parse(config: dict[str, Any]) -> Settings:
    """Settings from a resolved config (plain dicts, lists and scalars).

    Raises:
        SettingsError: an unknown key, a missing one, a value of the wrong type or out of its range.
    """
    if "launcher" in config:
        parse_launcher(config["launcher"])
    for key, kind in (("dry_run", bool), ("retry_failed", bool), ("objective", NotEmpty | None)):
        if key in config:
            _validate(kind, config[key], (key,))
    config = {key: value for key, value in config.items() if key not in COMMAND_KEYS}
    if isinstance(config.get("optimizer"), dict):
        config["optimizer"] = _optimizer(config["optimizer"], ("optimizer",))
    if isinstance(config.get("schedule"), dict):
        # None: a key that another schedule has.
        config["schedule"] = {key: value for key, value in config["schedule"].items() if value is not None}
        if isinstance(config.get("optimizer"), dict):
            config["optimizer"]["schedule"] = _own_schedule(config["optimizer"].get("schedule"), config["schedule"])
    task = None
    if "task" in config:
        task = _validate(experiment.load(str(config.get("experiment"))), config["task"], ("task",))
        config["task"] = None
    settings: Settings = replace(_validate(Settings, config), task=task)

    # What no single field can know.
    parts = {"optimizer": settings.optimizer, "schedule": settings.schedule, "training": settings.training}
    absent = [key for key, part in parts.items() if part is None]
    if len(absent) == len(parts):
        settings.task.check(settings)
        return settings
    if "training" in absent:
        (given, *_) = (key for key in parts if key not in absent)
        raise SettingsError(
            f"training=None with {given}={config[given]['name']}: an analysis, which is not trained, has no {given}"
        )
    if absent:
        raise SettingsError(f"{absent[0]}=null: experiment={settings.experiment} is trained and needs one")
    _, schedule, training = settings.trained
    examples = TRAINING_EXAMPLES.get(settings.data.name) if settings.data is not None else None
    if settings.data is not None and examples is not None and training.batch_size > examples:
        raise SettingsError(
            f"training.batch_size={training.batch_size}: must be at most the {examples} training examples of "
            f"data={settings.data.name}"
        )
    if training.batch_size % settings.trainer.accumulate:
        raise SettingsError(
            f"trainer.accumulate={settings.trainer.accumulate}: must divide training.batch_size={training.batch_size}"
        )
    if settings.machine.shard and settings.machine.compile:
        raise SettingsError("machine.shard=true with machine.compile=true: one of the two, they do not go together")
    warmup = getattr(schedule, "warmup", 0)
    if warmup >= training.steps:
        key = "optimizer.schedule" if schedule is not settings.schedule else "schedule"
        raise SettingsError(f"{key}.warmup={warmup}: must be less than training.steps={training.steps}")
    for key in ("log_every", "evaluate_every"):
        value = getattr(training, key)
        if value > training.steps:
            raise SettingsError(f"training.{key}={value}: must be at most training.steps={training.steps}")
    for key, value in (("evaluate_every", training.evaluate_every), ("steps", training.steps)):
        if value % training.log_every:
            raise SettingsError(
                f"training.{key}={value}: must be a multiple of training.log_every={training.log_every}"
            )
    settings.task.check(settings)
    return settings


def _optimizer(config: dict[str, Any], prefix: tuple[str, ...]) -> dict[str, Any]:
    """In a config the hyperparameters stand beside ``lr``; in the settings they are a mapping of their own.

    A player's optimizer is that of all with some keys changed, or another one, from its target on.
    """
    own, hyperparameters = _split(config, Optimizer, prefix)
    given, players = own.pop("players", None) or {}, {}
    if not isinstance(given, dict):
        raise SettingsError(f"{'.'.join(prefix)}.players={given!r}: must be keys of an optimizer by a player's name")
    for name, changes in given.items():
        if not isinstance(changes, dict):
            raise SettingsError(f"{'.'.join(prefix)}.players.{name}={changes!r}: must be keys of an optimizer")
        if "schedule" in changes:
            raise SettingsError(
                f"{'.'.join(prefix)}.players.{name}.schedule: players have one schedule, the optimizer's"
            )
        base = own | {"schedule": None} | ({"rest": None} if "target" in changes else hyperparameters)
        players[name] = _optimizer(base | changes, (*prefix, "players", name))
        _validate(Optimizer, players[name], (*prefix, "players", name))
    if isinstance(own.get("rest"), dict):
        rest, others = _split(own["rest"], Rest, (*prefix, "rest"))
        own["rest"] = rest | {"hyperparameters": others}
    return own | {"hyperparameters": hyperparameters, "players": players}


def _own_schedule(changes: Any, of_all: dict[str, Any]) -> dict[str, Any] | None:
    """The optimizer's schedule: that of the run with some keys changed, or another one; None if it is the run's."""
    if changes is None:
        return None
    if not isinstance(changes, dict):
        raise SettingsError(f"optimizer.schedule={changes!r}: must be keys of a schedule")
    same = changes.get("name", of_all.get("name")) == of_all.get("name")
    own = (of_all if same else {}) | changes
    return None if own == of_all else own


def _split(config: dict[str, Any], schema: Any, prefix: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of the schema, and the hyperparameters beside them."""
    names = {f.name for f in fields(schema)} - {"hyperparameters"}
    others = {key: _validate(Any, value, (*prefix, key)) for key, value in config.items() if key not in names}
    return {key: value for key, value in config.items() if key in names}, others


def parse_launcher(config: Any) -> Launcher:
    """The settings of the launcher: of a cluster's, if they name its ``engine``.

    Raises:
        SettingsError: as :func:`parse`.
    """
    engine = config.get("engine") if isinstance(config, dict) else None
    schema = {"slurm": Slurm, "ray": Ray}.get(str(engine), Launcher)
    launcher: Launcher = _validate(schema, config, ("launcher",))
    return launcher


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema, config=None if is_dataclass(schema) else STRICT)


def _validate(schema: Any, value: Any, prefix: tuple[str, ...] = ()) -> Any:
    try:
        text = json.dumps(value, allow_nan=schema is not Any)
    except ValueError:
        raise SettingsError(f"{'.'.join(prefix)}={value!r}: must be a finite number") from None
    try:
        # By way of JSON, so that "strict" means strict scalars and still builds the dataclasses from mappings.
        return _adapter(schema).validate_json(text)
    except ValidationError as error:
        beside = COMMAND_KEYS if schema is Settings else ()
        raise SettingsError(messages.of_validation(error, schema, prefix, beside)) from None

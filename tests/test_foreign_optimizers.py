"""Optimizers of others: all of torch's and many of pytorch_optimizer's run, are stopped and go on, or are refused."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reltrust import build
from reltrust.errors import SettingsError
from reltrust.packing import size as pack_size
from reltrust.packing.eligibility import obstacle
from reltrust.packing.runner import run_pack
from reltrust.records import checkpoint
from reltrust.records.identity import run_id, semantic
from reltrust.records.store import Status
from reltrust.records.summaries import collect
from reltrust.reporting.table import load
from reltrust.settings import Rest, Settings
from reltrust.sweeps.plan import plan
from reltrust.training.program import Program
from runs import ROOT, metrics, program_of, record_of, run, stopped

Resolve = Callable[..., Settings]
SHORT = ["training.steps=12", "training.log_every=3", "training.evaluate_every=6", "schedule.every=3", "task.width=8"]
ADAMW = Rest(target="torch.optim.AdamW", lr=0.001, hyperparameters={})
NOT_RUN = {
    "Optimizer": "the base class",
    "LBFGS": "evaluates the loss itself, by a closure",
    "SparseAdam": "takes sparse gradients, as no task has them",
}
TORCH = [
    f"torch.optim.{name}"
    for name, kind in inspect.getmembers(torch.optim, inspect.isclass)
    if issubclass(kind, torch.optim.Optimizer) and name not in NOT_RUN
]
THEIRS: dict[str, dict[str, Any]] = {  # with hyperparameters of their own
    "Lion": {},  # signs
    "Tiger": {"beta": 0.9},
    "SOAP": {},  # second order
    "Shampoo": {},
    "Kron": {},  # draws random numbers
    "ScheduleFreeSGD": {},  # trains and is evaluated at different weights
    "ScheduleFreeAdamW": {"warmup_steps": 4},
    "SPlus": {},
    "Adan": {"betas": [0.98, 0.92, 0.99]},  # a third beta
    "AdEMAMix": {"betas": [0.9, 0.999, 0.99]},
    "Ranger21": {"num_iterations": 12},  # an argument without a default
    "Prodigy": {"d0": 1e-4},  # estimates a learning rate from all parameters
    "EmoNavi": {},  # numbers beside tensors in its state
}
OBJECTS = ["AdaShift", "SCION", "ScalableShampoo"]


def chosen_by(settings: Settings, target: str, **hyperparameters: Any) -> Settings:
    """The optimizer's learning rate stays."""
    assert settings.optimizer is not None
    rest = ADAMW if target in ("torch.optim.Muon", "pytorch_optimizer.SpectralSphere") else None
    optimizer = replace(settings.optimizer, target=target, rest=rest, hyperparameters=hyperparameters)
    return replace(settings, optimizer=optimizer)


def elsewhere(settings: Settings, folder: Path) -> Settings:
    return replace(settings, machine=replace(settings.machine, results=str(folder)))


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Those that are built from here on."""
    built: list[Program] = []
    make = build.program

    def program(*args: Any) -> Program:
        built.append(make(*args))
        return built[-1]

    monkeypatch.setattr(build, "program", program)
    return built


def weights(program: Program) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for player in program.task.players for p in player.params])


def refusal(settings: Settings) -> str:
    with pytest.raises(SettingsError) as error:
        run(settings)
    assert not Path(settings.machine.results).exists()
    (line,) = str(error.value).splitlines()
    return line


# --- what runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [*TORCH, "pytorch_optimizer.SpectralSphere", *(f"pytorch_optimizer.{n}" for n in THEIRS)]
)
def test_an_optimizer_of_others_trains_is_stopped_and_goes_on_to_the_bit(
    settings: Resolve, tmp_path: Path, programs: list[Program], target: str
) -> None:
    mine = chosen_by(settings("optimizer=signsgd", *SHORT), target, **THEIRS.get(target.rpartition(".")[2], {}))
    before = weights(program_of(mine))
    whole = elsewhere(mine, tmp_path / "whole")
    assert run(whole) is Status.FINISHED
    trained = weights(programs[-1])
    assert trained.isfinite().all()
    assert not torch.equal(trained, before)

    with stopped(at=7):
        assert run(mine) is Status.PREEMPTED
    torch.rand(3)  # what else the process does in between
    assert checkpoint.step(record_of(mine).checkpoint_path) == 7
    assert run(mine) is Status.FINISHED
    assert torch.equal(weights(programs[-1]), trained)
    assert metrics(mine) == metrics(whole)


def test_a_hyperparameter_of_any_kind_goes_from_the_command_line_to_the_optimizer(settings: Resolve) -> None:
    words = ["optimizer=signsgd", "~optimizer.style", "optimizer.name=adafactor"]  # as the readme has it
    words += ["optimizer.target=torch.optim.Adafactor", "+optimizer.eps=[null,0.001]"]
    (optimizer,) = program_of(settings(*words)).optimizers
    assert list(optimizer.param_groups[0]["eps"]) == [None, 0.001]
    assert words[-1] in (ROOT / "README.md").read_text()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "hyperparameters", "reason"),
    [
        ("torch.optim.LBFGS", {}, "a step without a closure, on dense gradients without a graph, fails"),
        ("torch.optim.SparseAdam", {}, "does not support dense gradients"),
        ("pytorch_optimizer.AdaHessian", {}, "gradients without a graph, fails"),  # loss.backward(create_graph=True)
        ("pytorch_optimizer.SophiaH", {}, "gradients without a graph, fails"),
        ("pytorch_optimizer.AliG", {}, "no learning rate"),
        ("pytorch_optimizer.A2Grad", {}, "no learning rate"),
        ("pytorch_optimizer.SAM", {}, "missing 1 required positional argument: 'base_optimizer'"),
        ("pytorch_optimizer.AdaLOMO", {}, "has no attribute 'named_parameters'"),
        ("pytorch_optimizer.AdaMuon", {}, "Tensor.__contains__"),  # a RuntimeError of its constructor
        ("pytorch_optimizer.SOAP", {"nothing_of_the_kind": {}, "betas": [2, 0]}, "beta"),
        ("torch.optim.Adam", {"foreach": True, "fused": True}, "`fused` and `foreach` cannot be `True` together"),
        ("torch.optim.Adam", {"differentiable": True}, "in-place operation"),
        ("os.nothing", {}, "has no attribute 'nothing'"),
        ("no_such_package.Adam", {}, "No module named"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_before_anything_is_written(
    settings: Resolve, target: str, hyperparameters: dict[str, Any], reason: str
) -> None:
    line = refusal(chosen_by(settings("optimizer=signsgd"), target, **hyperparameters))
    assert line.startswith(f"optimizer.target={target!r}")
    assert reason in line


called: list[Any] = []


def without_annotation(params: Any, **arguments: Any):  # type: ignore[no-untyped-def]
    called.append(params)
    return torch.optim.SGD(params, **arguments)


def annotated_otherwise(params: Any, **arguments: Any) -> list[torch.optim.Optimizer]:
    called.append(params)
    return [torch.optim.SGD(params, **arguments)]


def annotated(params: Any, lr: float) -> "torch.optim.Optimizer":
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


HERE = __name__
STRANGERS = ["os.system", "os.environ", "builtins.dict", f"{HERE}.without_annotation", f"{HERE}.annotated_otherwise"]


def test_what_is_no_optimizer_is_never_called(settings: Resolve) -> None:
    # Regression: whatever it named was called, os.system too.
    called.clear()
    general, player, muon = (
        settings("optimizer=signsgd"),
        settings("+optimizer.players.model.lr=0.1"),
        settings("optimizer=muon"),
    )
    assert player.optimizer is not None
    assert muon.optimizer is not None
    for target in STRANGERS:
        players = {"model": replace(player.optimizer.players["model"], target=target)}
        for key, mine in (
            ("optimizer", chosen_by(general, target)),
            ("optimizer.players.model", replace(player, optimizer=replace(player.optimizer, players=players))),
            ("optimizer.rest", replace(muon, optimizer=replace(muon.optimizer, rest=replace(ADAMW, target=target)))),
        ):
            allowed = "must be a subclass of torch.optim.Optimizer, or a function annotated to return one"
            assert refusal(mine) == f"{key}.target={target!r}: {allowed}"
            with pytest.raises(SettingsError, match="must be a subclass"):  # as a sweep is before its first run
                build.check([mine])
        assert "must be a subclass" in str(obstacle(chosen_by(general, target)))
    assert called == []


def test_a_function_that_says_it_returns_an_optimizer_is_one_for_packs_too(settings: Resolve) -> None:
    mine = [chosen_by(settings(*SHORT, f"seed={seed}"), f"{HERE}.annotated") for seed in range(2)]
    assert obstacle(mine[0]) == f"optimizer.target={HERE}.annotated does not pack"
    assert run_pack(plan(mine), max_members=None, memory_fraction=0.5) == [Status.FINISHED] * 2


# --- torch's keywords ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fused", "foreach"),
    [
        ([], True, None),
        (["+optimizer.fused=false"], False, None),
        (["+optimizer.foreach=true"], None, True),
        (["+optimizer.foreach=false"], None, False),
    ],
)
def test_torchs_fused_form_is_taken_unless_another_is_given(
    settings: Resolve, words: list[str], fused: bool | None, foreach: bool | None
) -> None:
    # Regression: false was recorded and hashed and overwritten, and foreach=true raised an error.
    mine = settings("optimizer=adam", *SHORT, *words)
    (optimizer,) = program_of(mine).optimizers
    assert (optimizer.param_groups[0]["fused"], optimizer.param_groups[0]["foreach"]) == (fused, foreach)
    assert run(mine) is Status.FINISHED


def test_a_pack_keeps_to_the_form_that_is_given(
    settings: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_size, "packing_gain", lambda *_: 2.0)
    forms = [[], ["+optimizer.fused=false"], ["+optimizer.foreach=true"]]
    mine = [settings("optimizer=adam", *SHORT, *words) for words in forms]
    assert run_pack(plan(mine), max_members=None, memory_fraction=0.5) == [Status.FINISHED] * 3
    for one in mine:
        alone = elsewhere(one, tmp_path / "alone")
        run(alone)
        assert record_of(one).provenance["attempts"][0]["members"] == 3
        assert metrics(one) == metrics(alone)


def test_the_trial_of_an_optimizer_draws_no_number_of_the_runs(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = settings("optimizer=integer_madam", "optimizer.init=random")
    program_of(mine)
    tried = torch.rand(3)
    monkeypatch.setattr(build, "optimizer", lambda own, params, device, **_: torch.optim.SGD(params, lr=own.lr))
    program_of(mine)
    assert torch.equal(torch.rand(3), tried)


# --- matrices and the rest -------------------------------------------------------------------------------------------


def test_muon_moves_matrices_and_another_optimizer_the_rest(settings: Resolve) -> None:
    program = program_of(settings("optimizer=muon", "optimizer.rest.lr=0.5", "schedule=constant"))
    (joint,) = program.optimizers
    matrices, others = joint.param_groups
    assert all(p.dim() == 2 for p in matrices["params"])
    assert all(p.dim() == 1 for p in others["params"])
    assert len(matrices["params"]) + len(others["params"]) == len(program.task.players[0].params)
    program.training_step(0, [0.25])
    assert [group["lr"] for group in joint.param_groups] == [0.25 * 0.001, 0.25 * 0.5]
    assert program.lrs == [0.25 * 0.001]


def test_an_embedding_is_no_matrix_and_where_there_is_no_rest_none_is_needed(settings: Resolve) -> None:
    chosen = settings("optimizer=muon").optimizer
    assert chosen is not None
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3, bias=False))
    table, matrix = module.parameters()
    joint = build.optimizer(chosen, [table, matrix], torch.device("cpu"), embeddings=[table])
    assert [group["params"] for group in joint.param_groups] == [[matrix], [table]]
    (group,) = build.optimizer(chosen, [matrix], torch.device("cpu")).param_groups
    assert group["params"] == [matrix]


def test_muon_and_its_rest_go_on_to_the_bit_also_when_clipped_and_for_one_player_alone(
    settings: Resolve, tmp_path: Path, programs: list[Program]
) -> None:
    rest = "{target: torch.optim.Adam, lr: 0.01, betas: [0.8, 0.9]}"
    player = f"+optimizer.players.model={{target: torch.optim.Muon, lr: 0.01, rest: {rest}}}"
    for words in (
        ["optimizer=muon", "+optimizer.clip_norm=0.1", "trainer.accumulate=2"],
        ["optimizer=fromage", player],
    ):
        mine = settings(*words, *SHORT)
        whole = elsewhere(mine, tmp_path / "whole")
        assert run(whole) is Status.FINISHED
        trained = weights(programs[-1])
        with stopped(at=7):
            assert run(mine) is Status.PREEMPTED
        assert run(mine) is Status.FINISHED
        assert torch.equal(weights(programs[-1]), trained)
        assert metrics(mine) == metrics(whole)
    (joint,) = programs[-1].optimizers
    assert joint.param_groups[1]["betas"] == (0.8, 0.9)


def test_a_player_has_the_rest_of_all_unless_its_target_is_another(settings: Resolve) -> None:
    same = settings("optimizer=muon", "+optimizer.players.model.lr=0.5").optimizer
    other = settings("optimizer=muon", "+optimizer.players.model.target=torch.optim.SGD").optimizer
    assert same is not None
    assert other is not None
    assert same.players["model"].rest == same.rest
    assert same.rest is not None
    assert other.players["model"].rest is None


def test_the_rest_is_part_of_the_identity_and_its_absence_is_not(settings: Resolve) -> None:
    ids = [run_id(settings(*words)) for words in ([], ["+optimizer.rest=null"], ["optimizer=muon"])]
    ids += [run_id(settings("optimizer=muon", f"optimizer.rest.{change}")) for change in ("lr=0.1", "eps=1e-6")]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4
    # As they were before there was a choice.
    assert run_id(settings("+optimizer.players.model.lr=0.5"))[:8] == "bd2973ce"
    sgd = "+optimizer.players.model={target: torch.optim.SGD, lr: 0.1}"
    assert run_id(settings("optimizer=adam", sgd, "+optimizer.clip_norm=1.0"))[:8] == "47b8e393"
    assert "rest" not in semantic(settings())["optimizer"]


def test_the_rest_tells_the_rows_of_a_table_apart(settings: Resolve, tmp_path: Path) -> None:
    for seed in range(2):
        assert run(settings("optimizer=muon", *SHORT, f"seed={seed}")) is Status.FINISHED
    assert run(settings("optimizer=muon", *SHORT, "seed=0", "optimizer.rest.lr=0.1")) is Status.FINISHED
    collect(tmp_path / "results", "mlp_depth", {})
    arms = load(tmp_path / "results", "mlp_depth").groupby("arm")["seed"].nunique()
    assert sorted(arms) == [1, 2]
    assert "rest=" in arms.idxmin()


def test_an_optimizer_with_a_rest_is_not_packed_and_told_why(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pack_size, "packing_gain", lambda *_: 2.0)
    rest = "+optimizer.rest={target: torch.optim.SGD, lr: 0.1}"
    mine = [settings("optimizer=adam", rest, *SHORT, f"seed={seed}") for seed in range(2)]
    assert run_pack(plan(mine), max_members=None, memory_fraction=0.5) == [Status.FINISHED] * 2
    assert "is run alone: optimizer.rest.target=torch.optim.SGD does not pack" in caplog.text
    assert obstacle(settings("optimizer=muon")) == "optimizer.target=torch.optim.Muon does not pack"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optimizer=muon", "optimizer.rest.lr=-1"], "optimizer.rest.lr=-1: must be greater than 0"),
        (["optimizer=adam", "+optimizer.rest={lr: 1.0}"], "optimizer.rest.target: missing"),
        (["optimizer=muon", "+optimizer.rest.foo=1"], "optimizer.rest.target='torch.optim.AdamW' with lr=0.001"),
        (["optimizer=muon", "optimizer.rest=null"], "optimizer.target='torch.optim.Muon' with lr=0.001"),
    ],
)
def test_a_wrong_rest_is_refused_by_name(settings: Resolve, words: list[str], line: str) -> None:
    with pytest.raises(SettingsError) as error:
        run(settings(*words))
    assert str(error.value).startswith(line)


# --- schedule-free ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ScheduleFreeAdamW", "ScheduleFreeSGD", "SPlus", "the rest"])
def test_a_schedule_free_optimizer_is_evaluated_at_the_weights_that_it_means(settings: Resolve, name: str) -> None:
    # Regression: at those that it trains at.
    if name == "the rest":
        mine = settings("optimizer=muon", *SHORT)
        rest = replace(ADAMW, target="pytorch_optimizer.ScheduleFreeAdamW")
        mine = replace(mine, optimizer=replace(mine.optimizer, rest=rest))
    else:
        mine = chosen_by(settings("optimizer=signsgd", *SHORT), f"pytorch_optimizer.{name}")
    assert run(mine) is Status.FINISHED

    program, found = program_of(mine), []
    (optimizer,) = program.optimizers
    modes: Any = optimizer.parts[1] if name == "the rest" else optimizer  # type: ignore[attr-defined]
    for step in range(12):
        program.training_step(step, [0.95 ** (step // 3)])
        program.fetch_window(step + 1)
        if (step + 1) % 6 == 0:
            training = program.task.evaluate().row
            modes.eval()
            found.append(program.task.evaluate().row)
            modes.train()
            assert found[-1] != training
    recorded = [{key: row[key] for key in found[0]} for row in metrics(mine) if "test_loss" in row]
    assert recorded == found


class Strict(torch.optim.SGD):
    """As schedulefree has it: starts in no mode, and steps in training mode only."""

    mode = "eval"

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"

    def step(self, closure: Any = None) -> Any:
        assert self.mode == "train"
        return super().step(closure)


def test_an_optimizer_is_in_training_mode_before_the_first_step(settings: Resolve) -> None:
    assert run(chosen_by(settings(*SHORT), f"{HERE}.Strict")) is Status.FINISHED


# --- a state that no checkpoint holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTS)
def test_an_optimizer_whose_state_cannot_be_kept_runs_without_checkpoints_and_begins_again(
    settings: Resolve, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Regression: its checkpoint was written, and every repeated command ended in the traceback of its loading.
    mine = chosen_by(settings("optimizer=signsgd", *SHORT), f"pytorch_optimizer.{name}")
    whole = elsewhere(replace(mine, machine=replace(mine.machine, checkpoint_minutes=1e-9)), tmp_path / "whole")
    assert run(whole) is Status.FINISHED
    (told,) = caplog.messages  # at the first of eleven
    assert told.startswith(record_of(whole).path.name)
    assert "its optimizer's state cannot be kept in a checkpoint (" in told
    assert told.endswith("); if stopped, the run begins again")

    caplog.clear()
    with stopped(at=7):
        assert run(mine) is Status.PREEMPTED
    assert not record_of(mine).checkpoint_path.exists()
    assert len(caplog.messages) == 1
    caplog.clear()
    assert run(mine) is Status.FINISHED
    assert caplog.messages == [f"{record_of(mine).path.name} begins again: no checkpoint of it was kept"]
    assert metrics(mine) == metrics(whole)


def test_what_a_checkpoint_holds_is_found_out_without_writing_it(tmp_path: Path) -> None:
    class Own(list[int]): ...

    path = tmp_path / "checkpoint.pt"
    for state in ({"parts": [{1, 2}, (None, "a"), torch.zeros(3)]}, {"p": {torch.zeros(2): torch.float16}}):
        checkpoint.check_loadable(state)
    for bad in (Own(), Path("a"), lambda: None, (i for i in range(3))):
        with pytest.raises(checkpoint.StateError, match="cannot be kept in a checkpoint"):
            checkpoint.save(path, {"state": {"group": [bad]}})
    assert not path.exists()


class OnDevice(torch.optim.SGD):
    """Makes a step anywhere but on the CPU."""

    def step(self, closure: Any = None) -> Any:
        if any(p.device.type == "cpu" for group in self.param_groups for p in group["params"]):
            raise RuntimeError("only CUDA tensors")
        return super().step(closure)


def test_an_optimizer_that_makes_no_step_on_the_cpu_is_tried_where_the_run_is_computed(settings: Resolve) -> None:
    chosen = chosen_by(settings(), f"{__name__}.OnDevice")
    with pytest.raises(SettingsError, match="only CUDA tensors"):
        build.check_optimizers(chosen, torch.device("cpu"))
    build.check_optimizers(chosen, torch.device("meta"))
    build.check_optimizers(chosen, None)
    with pytest.raises(SettingsError, match="a step without a closure"):  # torch's own make the same step anywhere
        build.check_optimizers(chosen_by(settings(), "torch.optim.LBFGS"), None)

"""Who may import whom: the walls of the house, read from the imports themselves."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import command_lines
from runs import ROOT

SRC = ROOT / "src"
PACKAGE = SRC / "reltrust"


@dataclass(frozen=True)
class Import:
    """``name`` in full, as in ``reltrust.records.store.Store``; ``lazy`` if it waits for a function to be called."""

    name: str
    lazy: bool

    def is_of(self, *modules: str) -> bool:
        return any(self.name == module or self.name.startswith(f"{module}.") for module in modules)


def imports_of(source: str, package: str = "") -> list[Import]:
    """Every import that happens: at a module's top, in a function, relative to its ``package``, by importlib; not those
    for type checkers alone."""
    return list(_walk(ast.parse(source), package, lazy=False))


def _walk(node: ast.AST, package: str, *, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
        yield from (Import(f"{module}.{alias.name}", lazy) for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if called in ("import_module", "__import__"):
            yield Import(str(node.args[0].value), lazy)
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        for child in node.orelse:
            yield from _walk(child, package, lazy=lazy)
        return
    lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, package, lazy=lazy)


def imports_in(path: Path) -> list[Import]:
    package = ".".join(path.parent.relative_to(SRC).parts) if path.is_relative_to(SRC) else ""
    if path.is_relative_to(ROOT / "experiments"):
        package = f"reltrust.experiments.{path.parent.name}"
    return imports_of(path.read_text(encoding="utf-8"), package)


def python_files(*folders: Path) -> list[Path]:
    found = sorted(path for folder in folders for path in folder.rglob("*.py"))
    assert found, f"no Python files in {folders}"
    return found


def breaches(files: list[Path], *forbidden: str) -> list[str]:
    """Which of the files import one of the forbidden modules, and where."""
    return [
        f"{path.relative_to(ROOT)} imports {found.name}"
        for path in files
        for found in imports_in(path)
        if found.is_of(*forbidden)
    ]


FIGURES = sorted(path for name in ("figure.py", "verdicts.py") for path in ROOT.glob(f"experiments/*/{name}"))
SUBJECTS = sorted(ROOT.glob("experiments/*/settings.py"))
TASKS = sorted(path for path in ROOT.glob("experiments/*/*.py") if path not in (*FIGURES, *SUBJECTS))
EVERYTHING = python_files(SRC, ROOT / "experiments", ROOT / "scripts")


# --- the reader itself -----------------------------------------------------------------------------------------------


def test_every_way_of_importing_is_seen() -> None:
    source = """
import torch, os.path as p
from reltrust import settings
from . import store
from ..optim.fromage import Fromage as F
if True:
    import yaml
if TYPE_CHECKING:
    import pandas
else:
    import scipy
class A:
    import json
    def method(self):
        import wandb
        def inner(): from hydra import main
importlib.import_module("numpy.linalg")
lazily = lambda: __import__("pandas")
"""
    found = imports_of(source, "reltrust.records")
    eager = ["torch", "os.path", "reltrust.settings", "reltrust.records.store", "reltrust.optim.fromage.Fromage"]
    assert [i.name for i in found if not i.lazy] == [*eager, "yaml", "scipy", "json", "numpy.linalg"]
    assert [i.name for i in found if i.lazy] == ["wandb", "hydra.main", "pandas"]


def test_a_module_is_not_taken_for_another_whose_name_it_begins_with() -> None:
    assert Import("torch.nn", False).is_of("torch")
    assert Import("torch", False).is_of("torch")
    assert not Import("torchvision.datasets", False).is_of("torch")


# --- walls of single rooms -------------------------------------------------------------------------------------------


def test_optim_imports_torch_the_standard_library_and_itself() -> None:
    """Triton comes with torch's CUDA builds; it stays in one file, which is imported where a kernel is asked for."""
    allowed = ("torch", "reltrust.optim", *sys.stdlib_module_names)
    strange = [
        f"{path.relative_to(ROOT)} imports {found.name}"
        for path in python_files(PACKAGE / "optim")
        for found in imports_in(path)
        if not found.is_of(*allowed, *(["triton"] if path.name == "_triton.py" else []))
    ]
    assert strange == []


def test_theory_imports_torch_numpy_scipy_sympy_the_standard_library_and_itself() -> None:
    allowed = ("torch", "numpy", "scipy", "sympy", "reltrust.theory", *sys.stdlib_module_names)
    files = python_files(PACKAGE / "theory")
    assert [(path.name, one.name) for path in files for one in imports_in(path) if not one.is_of(*allowed)] == []


def test_reporting_figures_and_settings_never_import_torch() -> None:
    assert FIGURES
    assert SUBJECTS
    files = [*python_files(PACKAGE / "reporting"), *FIGURES, *SUBJECTS, ROOT / "scripts" / "figures.py"]
    assert breaches(files, "torch") == []


def test_reporting_and_the_figures_import_nothing_of_ours_but_reporting_and_where_artifacts_lie() -> None:
    allowed = ("reltrust.reporting", "reltrust.records.artifacts", "reltrust.errors", "reltrust.experiments")
    allowed += ("reltrust.metrics.networks",)  # what a distance is called
    ours = [
        f"{path.relative_to(ROOT)} imports {found.name}"
        for path in [*python_files(PACKAGE / "reporting"), *FIGURES]
        for found in imports_in(path)
        if found.is_of("reltrust", "hydra_plugins") and not found.is_of(*allowed)
    ]
    assert ours == []


def test_training_knows_no_command_line_and_no_dashboard() -> None:
    assert breaches(python_files(PACKAGE / "training"), "hydra", "omegaconf", "wandb") == []


def test_what_is_trained_knows_neither_how_nor_where() -> None:
    """An analysis is not trained, and may train inside: of these walls it has all but the one to the optimizers. So has
    an optimizer that lives with its experiment."""
    assert TASKS
    files = [*python_files(PACKAGE / "models", PACKAGE / "data", PACKAGE / "metrics"), *TASKS]
    analyses = [path for path in TASKS if path.name in ("analysis.py", "optimizer.py")]
    walls = ["hydra", "omegaconf", "wandb"]
    walls += [f"reltrust.{wing}" for wing in ("training", "packing", "records", "sweeps", "build", "run")]
    found = breaches(files, *walls)
    found += breaches([path for path in files if path not in analyses], "torch.optim", "reltrust.optim")
    assert [one for one in found if "torch.optim.swa_utils" not in one] == []  # averages of weights are no optimizer


def test_the_package_names_no_experiment() -> None:
    """Neither in code nor in words: the next experiment would have to be named too."""
    names = [path.name for path in (ROOT / "experiments").iterdir() if path.is_dir() and path.name != "__pycache__"]
    tools = {path.stem for path in (SRC / "reltrust").rglob("*.py")}  # one may bear the name of its subject too
    names = [name for name in names if name not in tools]
    assert names
    files = [path for path in SRC.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    found = [(path.name, name) for path in files for name in names if re.search(rf"\b{name}\b", path.read_text())]
    assert found == []


def test_nothing_reaches_into_another_wings_private_names() -> None:
    reached = [
        f"{path.relative_to(ROOT)} imports {found.name}"
        for path in EVERYTHING
        for found in imports_in(path)
        if found.is_of("reltrust")
        and any(part.startswith("_") for part in found.name.split("."))
        and not (path.is_relative_to(PACKAGE) and found.is_of(f"reltrust.{wing_of(path)}"))
    ]
    assert reached == []


def test_only_the_application_and_the_plugins_import_hydra() -> None:
    importers = {path for path in EVERYTHING for found in imports_in(path) if found.is_of("hydra", "hydra_plugins")}
    plugins = {path for path in importers if path.is_relative_to(SRC / "hydra_plugins")}
    scripts = {path for path in importers if path.parent.name in ("scripts", "benchmarks")}
    assert importers - plugins - scripts == {PACKAGE / "__main__.py", PACKAGE / "messages.py"}
    asked = [one for path in scripts for one in imports_in(path) if one.is_of("hydra", "hydra_plugins")]
    assert all(one.is_of("hydra_plugins.reltrust_plugins.scripting") for one in asked)  # which is there for them
    assert all(found.lazy for found in imports_in(PACKAGE / "messages.py") if found.is_of("hydra"))
    assert plugins


def test_wandb_is_imported_by_the_tracker_and_its_uploads_alone_and_only_when_it_is_asked_for() -> None:
    found = [(path, one.lazy) for path in EVERYTHING for one in imports_in(path) if one.is_of("wandb")]
    assert found
    assert {path for path, _ in found} == {PACKAGE / "records" / f"{name}.py" for name in ("tracking", "uploading")}
    assert all(lazy for _, lazy in found)


def test_the_package_imports_no_experiment_and_no_script() -> None:
    named = [f"reltrust.experiments.{path.parent.name}" for path in SUBJECTS]
    assert breaches(python_files(SRC), *named, "experiments", "scripts", "benchmarks", "tests") == []


# --- the order of the wings ------------------------------------------------------------------------------------------

# From the ground up: each stands on those before it. Wings of one storey do not know each other.
STOREYS = [
    ["errors", "experiments", "schema"],
    ["schedules"],
    ["experiment"],
    ["messages"],
    ["optim", "models", "data", "metrics", "theory"],
    ["settings"],
    ["records"],
    ["precheck", "training", "reporting"],
    ["sweeps"],
    ["build"],
    ["run"],
    ["packing"],
    ["clusters"],
    ["__main__"],
]
STOREY = {wing: height for height, wings in enumerate(STOREYS) for wing in wings}


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_file_of_the_package_belongs_to_a_wing() -> None:
    assert {wing_of(path) for path in python_files(PACKAGE)} == {*STOREY, "__init__"}


@pytest.mark.parametrize("wing", STOREY)
def test_a_wing_stands_on_those_below_it(wing: str) -> None:
    files = [path for path in python_files(PACKAGE) if wing_of(path) == wing]
    allowed = {wing} | {other for other, storey in STOREY.items() if storey < STOREY[wing]}
    upward = [
        f"{path.relative_to(ROOT)} imports {found.name}"
        for path in files
        for found in imports_in(path)
        if found.is_of("reltrust") and found.name.split(".")[1] not in allowed
    ]
    assert files
    assert upward == []


def test_nothing_in_the_package_imports_its_application_or_its_plugins() -> None:
    files = [path for path in python_files(PACKAGE) if path.name != "__main__.py"]
    assert breaches(files, "reltrust.__main__", "hydra_plugins") == []


def test_importing_the_package_imports_nothing_else() -> None:
    assert imports_in(PACKAGE / "__init__.py") == []


# --- what it costs to start ------------------------------------------------------------------------------------------


def python(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_importing_what_needs_no_torch_does_not_import_it(tmp_path: Path) -> None:
    modules = ["reltrust", "reltrust.settings", "reltrust.sweeps.plan", "reltrust.reporting.report"]
    done = python("-c", f"import sys, {', '.join(modules)}; print(*sys.modules, sep='\\n')", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines())
    assert set(modules) <= loaded
    assert not loaded & {"torch", "wandb"}


def test_the_help_is_shown_without_importing_torch(tmp_path: Path) -> None:
    done = python("-X", "importtime", "-m", "reltrust", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "python -m reltrust" in done.stdout
    loaded = set(re.findall(r"^import time:.*\|\s*(\S+)$", done.stderr, flags=re.MULTILINE))
    assert {"hydra", "reltrust.settings", "reltrust.sweeps.plan"} <= loaded
    assert not {name for name in loaded if name.partition(".")[0] in ("torch", "wandb", "pandas", "matplotlib")}


# --- what is written -------------------------------------------------------------------------------------------------

_WATCH = """
import os, sys
log, root = os.environ["WRITES_LOG"], os.environ["WRITES_BELOW"]
def watch(event, args):
    if event == "open":
        path, mode, flags = args
        writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        if not writes:
            return
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        path = args[1] if event == "os.rename" else args[0]
    else:
        return
    if not isinstance(path, (str, bytes)) or not os.path.abspath(os.fsdecode(path)).startswith(root):
        return
    frame, ours = sys._getframe(1), []
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in ("/src/reltrust/", "/experiments/", "/src/hydra_plugins/")):
            ours.append(frame.f_code.co_filename)
        frame = frame.f_back
    with open(log, "a") as file:
        file.write(f"{ours[0] if ours else sys.argv[0]}\\t{event}\\t{os.fsdecode(path)}\\n")
sys.addaudithook(watch)
"""


def test_only_records_writes_below_results(tmp_path: Path) -> None:
    """Watched while a sweep runs, alone and in several processes, and while its figures are drawn."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(_WATCH)
    results, log = tmp_path / "results", tmp_path / "writes.log"
    watched = {"PYTHONPATH": str(tmp_path / "watch"), "WRITES_LOG": str(log), "WRITES_BELOW": str(results)}
    sweep = ["-m", "reltrust", "sweep=mlp_depth", "scale=smoke", "optimizer=adam", f"machine.results={results}"]
    commands = [
        [*sweep, "launcher=serial"],
        [*sweep, "launcher=packed", "seed=1,2", "launcher.workers=2", "launcher.require_packing=true"],
        [str(ROOT / "scripts" / "figures.py"), "--results", str(results)],
    ]
    done = subprocess.run(
        [sys.executable, command_lines.__file__],
        env={**os.environ, **watched},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for code, _, error in json.loads(done.stdout):
        assert code == 0, error
    writes = [line.split("\t") for line in log.read_text().splitlines()]
    written = {Path(path).name for _, _, path in writes}
    assert {".lease", "status.json", "metrics.jsonl", "config.yaml", "mlp_depth.csv", "mlp_depth-smoke.png"} <= written
    strangers = {(writer, path) for writer, _, path in writes if "/src/reltrust/records/" not in writer}
    assert strangers == set()

"""The wheel where there is nothing else than what it says it needs: it imports, trains, draws and reports."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runs import ROOT
from test_packaging import needed

pytestmark = pytest.mark.xdist_group("installing")  # one process builds the wheel


def closure(requirements: list[Requirement]) -> set[str]:
    """The names of the distributions that these need, as the environment of the tests has them."""
    found: set[tuple[str, str]] = set()
    todo = [(one.name, extra) for one in requirements for extra in ("", *one.extras)]
    while todo:
        name, extra = todo.pop()
        if (canonicalize_name(name), extra) in found:
            continue
        found.add((canonicalize_name(name), extra))
        for line in metadata.requires(name) or ():
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                todo += [(one.name, own) for own in ("", *one.extras)]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``make wheel`` builds it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (found,) = folder.glob("*.whl")
    return found


def environment(folder: Path, wheel: Path, requirements: list[Requirement]) -> Path:
    """The Python of a new environment with the wheel and what is required, and nothing else.

    Packages of the environment of the tests are linked, not copied: torch is several GB.
    """
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in closure(requirements):
        for file in metadata.files(name) or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(metadata.distribution(name).locate_file(top))))
    return python


def run(python: Path, folder: Path, *words: str) -> str:
    done = subprocess.run(
        [str(python), *words],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TRAIN = """
import importlib.util
import torch
from reltrust import optim

strangers = ("numpy", "pandas", "matplotlib", "hydra", "pydantic", "torchvision")
assert not [name for name in strangers if importlib.util.find_spec(name)]
for name in optim.__all__:
    if name == "RuleOptimizer" or not isinstance(getattr(optim, name), type):
        continue
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    x = torch.randn(64, 4)
    y = x.sum(dim=1, keepdim=True)
    optimizer = getattr(optim, name)(model.parameters(), lr=0.01)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0], (name, losses[0], losses[-1])
    print(name)
"""


def test_the_optimizers_train_where_there_is_torch_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "bare", wheel, needed())
    trained = run(python, tmp_path, "-W", "ignore", "-c", TRAIN).split()
    assert {"Fromage", "LARS", "Madam", "IntegerMadam", "SignSGD", "NovoGrad"} <= set(trained)


def test_an_experiment_is_trained_where_its_extra_is_installed_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "experiments", wheel, needed("experiments"))
    words = ["scale=smoke", "tracking=none", "machine.device=cpu", "machine.progress=false"]
    run(python, tmp_path, "-m", "reltrust", *words)
    (summary,) = tmp_path.glob("results/runs/mlp_depth/fromage/*/summary.json")
    assert "train_accuracy" in summary.read_text()


def test_make_figures_report_works_in_a_clone_with_the_plotting_packages_and_no_torch(
    wheel: Path, tmp_path: Path
) -> None:
    without = [one for one in needed("figures") if one.name != "torch"]
    python = environment(tmp_path / "figures", wheel, without)
    assert run(python, tmp_path, "-c", "import importlib.util as u; print(u.find_spec('torch'))").strip() == "None"
    clone = tmp_path / "clone"
    for part in ("src", "scripts", "experiments", "configs", "docs"):
        shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__", "api"))
    shutil.copy(ROOT / "Makefile", clone)
    for part in ("summaries", "pictures"):
        shutil.copytree(ROOT / "results" / part, clone / "results" / part)
    for path in (clone / "results" / "summaries").iterdir():
        if not path.name.startswith("madam_weights"):
            path.unlink()
    made = subprocess.run(
        ["make", "figures", "report", f"PYTHON={python}"], cwd=clone, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert "Madam never changes the sign of a weight" in made.stdout
    assert not (clone / ".venv").exists()
    assert "0 of 12,928 weights" in (clone / "results" / "report" / "index.html").read_text(encoding="utf-8")


def test_the_wheel_brings_the_pages_template(wheel: Path) -> None:
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True)
    for name in ("report.html.jinja", "report.css", "report.js"):
        assert f"reltrust/reporting/html/{name}" in listed.stdout


def test_the_api_is_made_of_the_docstrings(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pdoc", "--docformat", "google", "-o", str(tmp_path), "reltrust.optim"]
    subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
    page = (tmp_path / "reltrust" / "optim.html").read_text(encoding="utf-8")
    for name in ("Fromage", "LARS", "Madam", "IntegerMadam", "SignSGD", "NovoGrad"):
        assert f'id="{name}"' in page

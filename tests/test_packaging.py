"""The package, its environments and its lock agree with each other, and nothing in the repository is of one machine."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import reltrust
from runs import ROOT

PYTHONS = ("3.11.0", "3.11.14", "3.12.7", "3.13.0", "3.13.9")


@cache
def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


def needed(*extras: str) -> list[Requirement]:
    """The package's dependencies with those of some extras, where an extra may name others of the package itself."""
    lines = [
        *project()["dependencies"],
        *(line for extra in extras for line in project()["optional-dependencies"][extra]),
    ]
    found = []
    for requirement in map(Requirement, lines):
        if requirement.name == project()["name"]:
            found += needed(*requirement.extras)
        else:
            found.append(requirement)
    return found


# --- pyproject.toml --------------------------------------------------------------------------------------------------


def test_python_from_3_11_to_3_13_is_supported() -> None:
    supported = SpecifierSet(project()["requires-python"])
    assert all(supported.contains(version) for version in PYTHONS)
    assert not any(supported.contains(version) for version in ("3.10.99", "3.14.0", "4.0"))
    named = {line.rpartition(" ")[2] for line in project()["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert named == {"3.11", "3.12", "3.13"}


def test_the_optimizers_need_nothing_but_a_recent_torch() -> None:
    (torch,) = map(Requirement, project()["dependencies"])
    assert torch.name == "torch"
    (bound,) = [Version(one.version) for one in torch.specifier if one.operator == ">="]
    assert bound >= Version("2.11")


def test_the_extras_name_only_extras_that_there_are() -> None:
    extras = project()["optional-dependencies"]
    own = [one for lines in extras.values() for one in map(Requirement, lines) if one.name == project()["name"]]
    assert own
    assert {extra for one in own for extra in one.extras} <= set(extras)


def test_the_figures_need_no_torch() -> None:
    figures = {Requirement(line).name for line in project()["optional-dependencies"]["figures"]}
    assert figures == {"jinja2", "markdown-it-py", "matplotlib", "numpy", "pandas", "pillow"}


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert reltrust.__version__ == project()["version"]
    assert str(citation.get("version", project()["version"])) == project()["version"]


# --- environment.yml -------------------------------------------------------------------------------------------------


def test_the_conda_environment_agrees_with_the_package() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == project()["name"]
    assert environment["channels"] == ["conda-forge"]
    plain = [line for line in environment["dependencies"] if isinstance(line, str)]
    (installed,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    python, pip = plain
    assert pip == "pip"
    assert python.split(maxsplit=1)[0] == "python"
    assert SpecifierSet(python.removeprefix("python").strip()) == SpecifierSet(project()["requires-python"])
    (package,) = installed
    match = re.fullmatch(r"-e \.\[([\w,-]+)\]", package)
    assert match is not None, f"{package} is not this checkout"
    assert match[1].split(",") == ["experiments", "images", "mnist5k", "text"]
    assert set(match[1].split(",")) <= set(project()["optional-dependencies"])


# --- requirements.lock -----------------------------------------------------------------------------------------------


@cache
def lock() -> dict[Requirement, list[str]]:
    """Each requirement of the lock with its hashes."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = {}
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", entry.strip())
        found[Requirement(requirement)] = hashes
    return found


def pins(name: str) -> list[Version]:
    own = [one for one in lock() if canonicalize_name(one.name) == canonicalize_name(name)]
    return [Version(specifier.version) for one in own for specifier in one.specifier]


def test_every_locked_requirement_is_one_version_with_hashes() -> None:
    assert len(lock()) > 50
    for requirement, hashes in lock().items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "*" not in specifier.version, requirement
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


def test_the_lock_names_no_address_no_host_and_no_option() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not any(requirement.url for requirement in lock())
    assert "://" not in text
    assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", text)) == {"--hash"}
    assert re.findall(r"\b[\w-]+\.(?:org|com|net|io|dev|edu|cloud|local|internal)\b", text) == []


@pytest.mark.parametrize("requirement", sorted(needed("dev"), key=str), ids=lambda requirement: requirement.name)
def test_the_lock_meets_what_the_package_and_its_developers_ask_for(requirement: Requirement) -> None:
    locked = pins(requirement.name)
    assert locked, f"{requirement.name} is not in the lock"
    assert all(requirement.specifier.contains(version, prereleases=True) for version in locked)


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_gets_one_version_of_each_package(python: str) -> None:
    environment = {**default_environment(), "python_full_version": python, "python_version": python.rpartition(".")[0]}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    chosen = [canonicalize_name(one.name) for one in lock() if one.marker is None or one.marker.evaluate(environment)]
    assert len(chosen) == len(set(chosen))
    assert {canonicalize_name(one.name) for one in needed("dev")} <= set(chosen)


# --- the repository --------------------------------------------------------------------------------------------------

# Put together here, so that this file does not contain what it looks for.
MACHINE_FOLDERS = ["/" + folder + "/" for folder in ("work", "root")]
REGISTRY_HOSTS = [
    host + "." + end
    for host, end in (("pypi", "org"), ("python" + "hosted", "org"), ("anaconda", "org"), ("anaconda", "com"))
] + ["download.pytorch." + "org"]


def tracked_texts() -> dict[str, str]:
    """The content of every tracked file that is text and still there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = {}
    for name in filter(None, listed.split("\0")):
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return texts


def test_no_tracked_file_names_a_folder_of_one_machine_or_a_package_registry() -> None:
    texts = tracked_texts()
    assert {"pyproject.toml", "requirements.lock", "README.md"} <= set(texts)
    found = [
        (name, words) for name, text in texts.items() for words in MACHINE_FOLDERS + REGISTRY_HOSTS if words in text
    ]
    assert found == []


@pytest.mark.parametrize("name", ["LICENSE", "CITATION.cff", "README.md"])
def test_the_papers_of_the_house_are_there(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8").strip()


def test_the_citation_can_be_read() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["authors"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with somebody else's folder ``experiments``, which is not to be taken for ours."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise ImportError('not ours')")
    return tmp_path


def python(source: Path, folder: Path, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}  # what is installed stays as it is
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SPAWN = """
import multiprocessing, reltrust, reltrust.experiments.mlp_depth.settings
with multiprocessing.get_context("spawn").Pool(1) as pool:
    spawned = pool.apply(eval, ("__import__('reltrust.experiments.mlp_depth').experiments.mlp_depth.__path__[0]",))
    subject = reltrust.experiments.mlp_depth.settings.Subject(hidden_layers=3, width=8, init="he")
    assert pool.apply(getattr, (subject, "slug")) == "depth3"  # as the runs of a sweep go to its processes
print(reltrust.__file__, reltrust.experiments.mlp_depth.__path__[0], spawned)
"""


@pytest.mark.parametrize("where", ["checkout", "wheel"])
def test_experiments_are_found_by_spawned_processes_from_a_checkout_and_from_a_wheel(
    installed: Path, elsewhere: Path, where: str
) -> None:
    source, home = (installed, installed) if where == "wheel" else (ROOT / "src", ROOT)
    found = python(source, elsewhere, "-c", SPAWN).split()
    assert len(found) == 3
    assert all(path.startswith(str(home)) for path in found)


def test_a_sweep_runs_from_a_wheel(installed: Path, elsewhere: Path) -> None:
    words = ["-m", "scale=smoke", "seed=0,1", "launcher=processes", "launcher.workers=1"]
    python(installed, elsewhere, "-m", "reltrust", *words)
    assert len(list(elsewhere.glob("results/runs/mlp_depth/fromage/*/summary.json"))) == 2


def test_the_wheel_has_every_experiment_with_its_published_numbers(installed: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = tracked.stdout.splitlines()
    assert names
    assert [name for name in names if not (installed / "reltrust" / name).is_file()] == []
    assert not list(installed.rglob("*.pyc"))
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"hydra_plugins", "reltrust"}


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src" / "reltrust" / "py.typed").is_file()
    assert "Typing :: Typed" in project()["classifiers"]


def test_what_pyproject_names_exists() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    named = [*build["wheel"]["packages"], *build["wheel"]["force-include"], *build["sdist"]["include"]]
    named += [project()["readme"], *project()["license-files"]]
    assert [name for name in named if not (ROOT / name).exists()] == []

"""docs/extending.md, done: its files written, its commands run, in a copy of the tree."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from runs import ROOT

pytestmark = pytest.mark.xdist_group("extending")  # one process has the tree, and answers to all commands
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`([\w/]+\.\w+)`[^\n]*\n\n```\w+\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))
NEW = ("two_spirals", "ring_gan", "tiny_lm", "random_pi")
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    python ")]
WRONG = {
    "task.turns=0": "task.turns=0: must be greater than 0",
    "task.turn=1": "task.turn=1: unknown key, allowed are points, turns, width; did you mean turns?",
    "training.batch_size=201": "training.batch_size=201: must be at most task.points=200",
    "scale=paper": "scale=paper: unknown, allowed are quick, smoke",
}
OTHERS = [
    COMMANDS[2],
    "python -m reltrust experiment=random_pi scale=smoke optimizer=adam",
    *(f"python -m reltrust experiment=two_spirals scale=smoke machine.results=nowhere {word}" for word in WRONG),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks or would, with the files of the page."""
    copy = tmp_path_factory.mktemp("copy") / "reltrust"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for name, text in FILES.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    return copy


class Answer(NamedTuple):
    """What a command of the page said."""

    code: int
    told: str
    error: str


def python(tree: Path, *words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def answered(tree: Path) -> list[Answer]:
    """What the commands of the page and then the others say in the tree, in one process, which imports torch once."""
    words = [shlex.split(command.removeprefix("python ")) for command in (*COMMANDS, *OTHERS)]
    done = python(tree, str(tree / "tests" / "command_lines.py"), given=json.dumps(words))
    assert done.returncode == 0, done.stderr
    return [Answer(*one) for one in json.loads(done.stdout)]


def test_the_page_adds_two_folders_of_one_name_and_nothing_else() -> None:
    folders = {f"{folder}/{name}" for folder in ("experiments", "configs/experiment") for name in NEW}
    assert {str(Path(name).parent) for name in FILES} == folders
    assert len(COMMANDS) == 11


def test_every_command_of_the_page_succeeds(answered: list[Answer]) -> None:
    for command, answer in zip(COMMANDS, answered, strict=False):
        assert answer.code == 0, f"{command}: {answer.error}"


def test_the_new_experiment_runs_sweeps_and_is_drawn_and_judged_by_the_commands_of_the_page(
    tree: Path, answered: list[Answer]
) -> None:
    single, planned, swept, drawn, status, claims = answered[:6]
    assert "finished: steps 100" in single.told
    assert "W&B" not in single.error  # it tags runs with their data, of which there are none here
    assert "2 runs: 2 start" in planned.told
    assert "4/4 runs, 4 finished" in swept.error
    assert (tree / "results/figures/two_spirals-smoke.png").exists()
    assert "no claim can be judged at this scale" in drawn.told
    assert "two_spirals/fromage 3" in " ".join(status.told.split())
    finding = "| Two spirals | Fromage tells two spirals of one turn apart | - | - | **not run** | quick |"
    assert finding in claims.told
    assert "4 runs: 4 finished" in answered[len(COMMANDS)].error
    help_ = subprocess.run(["make"], cwd=tree, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^reproduce-two-spirals +Can a perceptron tell two spirals apart\?", help_, flags=re.MULTILINE)


def test_the_tests_that_walk_over_all_experiments_pass_with_the_new_ones(tree: Path) -> None:
    # Regression: an analysis went with no optimizer, and toys without a quick scale were not what the tests ask for.
    of_the_new = f"({' or '.join(NEW)} or test_walls) and not writ"  # the others' are run where they are
    walkers = ["tests/test_configs.py", "tests/test_walls.py", "-k", of_the_new]
    done = python(tree, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *walkers)
    assert done.returncode == 0, done.stdout[-2000:]
    assert done.stdout.count(".") > 5 * len(NEW)


def test_the_new_gan_is_trained_by_two_optimizers_and_shows_what_it_makes(tree: Path, answered: list[Answer]) -> None:
    assert re.search(r"finished: steps 100, d_loss .*, g_loss .*, distance 0\.", answered[6].told)
    (path,) = tree.glob("results/runs/ring_gan/adam/*")
    pictures = sorted((path / "files").iterdir())
    assert [picture.name for picture in pictures] == ["step050-points.png", "step100-points.png"]
    assert pictures[0].read_bytes().startswith(b"\x89PNG")


def test_the_new_language_model_learns_in_parts_with_dropout_and_keeps_its_weights(
    tree: Path, answered: list[Answer]
) -> None:
    found = re.search(r"test_perplexity (\S+)", answered[7].told)
    assert found
    assert float(found[1]) < 40
    (path,) = tree.glob("results/runs/tiny_lm/adamw/*")
    assert (path / "weights.safetensors").exists()
    assert len((path / "files" / "step100-sample.txt").read_text()) == 56


def test_the_new_analysis_runs_and_sweeps_and_keeps_its_file(tree: Path, answered: list[Answer]) -> None:
    single, swept = answered[8:10]
    assert "W&B" not in single.error
    assert "finished: pi 3.1" in single.told
    assert "4/4 runs, 4 finished" in swept.error
    path, *_ = tree.glob("results/runs/random_pi/analysis/*")
    assert (path / "files" / "pi.txt").read_bytes() == b"about 3.14"
    table = (tree / "results/summaries/random_pi.csv").read_text().splitlines()
    assert len(table) == 6  # a heading, the first command, four runs of the second
    refused = answered[len(COMMANDS) + 1]
    assert refused.code == 2
    assert "optimizer" in refused.error
    assert len(refused.error.splitlines()) == 1


def test_a_new_optimizer_is_compared_on_all_benchmarks_by_the_command_of_the_page(answered: list[Answer]) -> None:
    told = answered[10].told
    for name in ("mlp_depth", "cifar_classifier", "cifar_gan", "transformer_lm"):
        assert f"runs/{name}/novograd/" in told
        assert f"runs/{name}/fromage/" in told


def test_the_new_experiments_settings_are_checked_before_anything_is_written(
    tree: Path, answered: list[Answer]
) -> None:
    for answer, message in zip(answered[-len(WRONG) :], WRONG.values(), strict=True):
        assert answer.code == 2
        assert message in answer.error
        assert len(answer.error.splitlines()) == 1
    assert not (tree / "nowhere").exists()


def test_the_new_files_pass_format_lint_and_types(tree: Path) -> None:
    for tool in (
        ["ruff", "format", "--check", "experiments"],
        ["ruff", "check", "experiments"],
        # What was found out about the libraries is kept, where git ignores it.
        ["mypy", "--cache-dir", str(ROOT / ".mypy_cache" / "extending"), *(f"experiments/{name}" for name in NEW)],
    ):
        done = python(tree, "-m", *tool)
        assert done.returncode == 0, done.stdout + done.stderr

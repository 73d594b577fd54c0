"""docs/extending.md, done: its files written, its commands run, in a copy of the tree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`([\w/]+\.\w+)`[^\n]*\n\n```\w+\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))
NEW = ("two_spirals", "ring_gan", "tiny_lm", "pi")
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    python ")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks or would, with the files of the page."""
    copy = tmp_path_factory.mktemp("copy")
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


def call(tree: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_page_adds_two_folders_of_one_name_and_nothing_else() -> None:
    folders = {f"{folder}/{name}" for folder in ("experiments", "configs/experiment") for name in NEW}
    assert {str(Path(name).parent) for name in FILES} == folders
    assert len(COMMANDS) == 10


def test_the_new_experiment_runs_sweeps_and_is_drawn_and_judged_by_the_commands_of_the_page(tree: Path) -> None:
    answers = {}
    for command in COMMANDS[:6]:
        answers[command] = call(tree, *shlex.split(command)[1:])
        assert answers[command].returncode == 0, f"{command}: {answers[command].stderr}"
    single, planned, swept, drawn, status, claims = answers.values()
    assert "finished: steps 100" in single.stdout
    assert "W&B" not in single.stderr  # it tags runs with their data, of which there are none here
    assert "2 runs: 2 start" in planned.stdout
    assert "4/4 runs, 4 finished" in swept.stderr
    assert (tree / "results/figures/two_spirals-smoke.png").exists()
    assert "no claim can be judged at this scale" in drawn.stdout
    assert "two_spirals/fromage: 3 finished" in status.stdout
    assert "| Two spirals, quick | Fromage tells two spirals of one turn apart | - | - | **not run** |" in claims.stdout
    again = call(tree, *shlex.split(COMMANDS[2])[1:])
    assert "4 runs: 4 finished" in again.stderr
    help_ = subprocess.run(["make"], cwd=tree, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^reproduce-two-spirals +Can a perceptron tell two spirals apart\?", help_, flags=re.MULTILINE)


def test_the_new_gan_is_trained_by_two_optimizers_and_shows_what_it_makes(tree: Path) -> None:
    trained = call(tree, *shlex.split(COMMANDS[6])[1:])
    assert trained.returncode == 0, trained.stderr
    assert re.search(r"finished: steps 100, d_loss .*, g_loss .*, distance 0\.", trained.stdout)
    (path,) = tree.glob("results/runs/ring_gan/adam/*")
    pictures = sorted((path / "files").iterdir())
    assert [picture.name for picture in pictures] == ["step050-points.png", "step100-points.png"]
    assert pictures[0].read_bytes().startswith(b"\x89PNG")


def test_the_new_language_model_learns_in_parts_with_dropout_and_keeps_its_weights(tree: Path) -> None:
    trained = call(tree, *shlex.split(COMMANDS[7])[1:])
    assert trained.returncode == 0, trained.stderr
    found = re.search(r"test_perplexity (\S+)", trained.stdout)
    assert found
    assert float(found[1]) < 40
    (path,) = tree.glob("results/runs/tiny_lm/adamw/*")
    assert (path / "weights.safetensors").exists()
    assert len((path / "files" / "step100-sample.txt").read_text()) == 56


def test_the_new_analysis_runs_and_sweeps_and_keeps_its_file(tree: Path) -> None:
    single, swept = (call(tree, *shlex.split(command)[1:]) for command in COMMANDS[8:])
    assert single.returncode == 0, single.stderr
    assert "W&B" not in single.stderr
    assert "finished: pi 3.1" in single.stdout
    assert swept.returncode == 0, swept.stderr
    assert "4/4 runs, 4 finished" in swept.stderr
    path, *_ = tree.glob("results/runs/pi/analysis/*")
    assert (path / "files" / "pi.txt").read_bytes() == b"about 3.14"
    table = (tree / "results/summaries/pi.csv").read_text().splitlines()
    assert len(table) == 6  # a heading, the first command, four runs of the second
    refused = call(tree, "-m", "reltrust", "experiment=pi", "scale=smoke", "optimizer=adam")
    assert refused.returncode == 2
    assert "optimizer" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_the_new_experiments_settings_are_checked_before_anything_is_written(tree: Path) -> None:
    for words, message in (
        (["task.turns=0"], "task.turns=0: must be greater than 0"),
        (["task.turn=1"], "task.turn=1: unknown key, allowed are points, turns, width; did you mean turns?"),
        (["training.batch_size=201"], "training.batch_size=201: must be at most task.points=200"),
        (["scale=paper"], "scale=paper: unknown, allowed are quick, smoke"),
    ):
        answer = call(
            tree, "-m", "reltrust", "experiment=two_spirals", "scale=smoke", *words, "machine.results=nowhere"
        )
        assert answer.returncode == 2
        assert message in answer.stderr
        assert len(answer.stderr.splitlines()) == 1
    assert not (tree / "nowhere").exists()


def test_the_new_files_pass_format_lint_and_types(tree: Path) -> None:
    for tool in (["ruff", "format", "--check"], ["ruff", "check"], ["mypy"]):
        words = [*tool, "experiments"] if tool != ["mypy"] else ["mypy", *(f"experiments/{name}" for name in NEW)]
        answer = call(tree, "-m", *words)
        assert answer.returncode == 0, answer.stdout + answer.stderr

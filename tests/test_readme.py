"""What the README shows is so."""

import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import command_lines
from reltrust import experiment
from reltrust.reporting import report
from runs import ROOT

PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("extending", "gpu", "protocol", "licences")),
    *sorted(ROOT.glob("experiments/*/README.md")),
]
TEXT = "\n".join(page.read_text() for page in PAGES)


def shown(pattern: str) -> list[str]:
    """Commands of indented or inline code, without their comments."""
    lines = [line.split("   #")[0].strip() for line in TEXT.splitlines() if line.startswith("    ")]
    return sorted({line for line in [*lines, *re.findall(r"`([^`\n]+)`", TEXT)] if re.match(pattern, line)})


def test_every_make_target_that_is_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    targets |= {
        f"reproduce-{name.replace('_', '-')}" for name in (*experiment.names(), *report.names(), "two_spirals")
    }  # docs/extending.md
    commands = [command for command in shown(r"make [a-z]") if "<" not in command]
    assert len(commands) >= 5
    assert {command.split()[1] for command in commands} <= targets


RUNS = [c for c in shown(r"python -m reltrust ") if not c.endswith("--help")]


# Those of the experiments that docs/extending.md adds are run by test_extending.py.
@pytest.mark.parametrize(
    "command",
    [command for command in RUNS if not re.search("two_spirals|experiment=(random_pi|ring_gan|tiny_lm)", command)],
)
def test_every_run_that_is_shown_composes(
    reltrust: Callable[..., "subprocess.CompletedProcess[str]"], command: str
) -> None:
    words = shlex.split(command)[3:]
    if any(word.startswith("optimizer=mine") for word in words):
        words = [word.replace("mine", "madam") for word in words]  # the reader's own optimizer
    answer = reltrust(*words, "dry_run=true")
    assert answer.returncode == 0, answer.stderr
    assert "start" in answer.stdout


def test_every_script_that_is_shown_exists_and_explains_itself() -> None:
    scripts = {shlex.split(command)[1] for command in shown(r"python (scripts|benchmarks)/")}
    assert scripts
    asked = json.dumps([[str(ROOT / script), "--help"] for script in sorted(scripts)])
    answered = subprocess.run(
        [sys.executable, command_lines.__file__], input=asked, capture_output=True, text=True, check=True
    )
    for code, told, error in json.loads(answered.stdout):
        assert code == 0, error
        assert "usage: " in told


def snippet(containing: str) -> str:
    (found,) = [s for s in re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), flags=re.DOTALL) if containing in s]
    return str(found)


def somebody_elses() -> dict[str, Any]:
    """What a reader has before the first line of ours: a model, a loss and batches."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    batches = [(x := torch.randn(16, 10), x.sum(1, keepdim=True)) for _ in range(400)]
    return {"model": model, "batches": batches, "loss_of": torch.nn.functional.mse_loss}


def loss(names: dict[str, Any]) -> float:
    with torch.no_grad():
        return sum(float(names["loss_of"](names["model"](x), y)) for x, y in names["batches"])


def test_the_three_lines_train_in_somebody_elses_loop() -> None:
    names = somebody_elses()
    before = loss(names)
    exec(snippet("Fromage"), names)
    assert loss(names) < 0.3 * before


def test_the_snippet_of_the_saved_model_loads_it_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = somebody_elses()
    train = (
        "for x, y in batches:\n    optimizer.zero_grad()\n    loss_of(model(x), y).backward()\n    optimizer.step()\n"
    )
    train += "trained = {key: value.clone() for key, value in model.state_dict().items()}\n"
    exec(re.sub(r"\.\.\. .*\n", train, snippet("lns.save")), names)
    for key, value in names["model"].state_dict().items():
        assert torch.equal(value, names["trained"][key])


def test_the_claims_table_is_that_of_the_committed_results(tmp_path: Path) -> None:
    """Of the committed ones: a reader's own runs may have replaced those in the working tree."""
    archive = subprocess.run(["git", "archive", "HEAD", "results/summaries"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as committed:
        committed.extractall(tmp_path, filter="data")
    answer = command_lines.answer([str(ROOT / "scripts/claims.py"), "--results", str(tmp_path / "results")])
    assert answer.stdout.count("|") > 30
    assert answer.stdout in (ROOT / "README.md").read_text()


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_bare_make_lists_the_targets() -> None:
    listing = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "reproduce-mlp-depth", "figures", "report", "status", "test", "lint", "wheel", "api"):
        assert re.search(rf"^{target}\s+\w", listing, flags=re.MULTILINE)


def test_make_asks_for_seeds_only_if_it_is_told_how_many() -> None:
    """A sweep whose grids have seeds runs them all by itself."""
    for words, expected in (([], 0), (["SEEDS=3"], 1)):
        told = subprocess.run(
            ["make", "-n", "reproduce-mlp-depth", *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert told.stdout.count('"seed=range(3)"') == expected
        assert ("seed=" in told.stdout) is bool(expected)

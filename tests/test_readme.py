"""What the README shows is so."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "experiments/mlp_depth/README.md"]
TEXT = "\n".join(page.read_text() for page in PAGES)


def shown(pattern: str) -> list[str]:
    """Commands of indented or inline code, without their comments."""
    lines = [line.split("   #")[0].strip() for line in TEXT.splitlines() if line.startswith("    ")]
    return sorted({line for line in [*lines, *re.findall(r"`([^`\n]+)`", TEXT)] if re.match(pattern, line)})


def test_every_make_target_that_is_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = shown(r"make [a-z]")
    assert len(commands) >= 5
    assert {command.split()[1] for command in commands} <= targets


@pytest.mark.parametrize("command", [c for c in shown(r"python -m reltrust ") if not c.endswith("--help")])
def test_every_run_that_is_shown_composes(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)[3:]
    if any(word.startswith("optimizer=mine") for word in words):
        words = [word.replace("mine", "madam") for word in words]  # the reader's own optimizer
    answer = subprocess.run(
        [sys.executable, "-m", "reltrust", *words, "dry_run=true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "start" in answer.stdout


def test_every_script_that_is_shown_exists_and_explains_itself() -> None:
    scripts = {shlex.split(command)[1] for command in shown(r"python (scripts|benchmarks)/")}
    assert scripts
    for script in scripts:
        answer = subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, check=False)
        assert answer.returncode == 0, answer.stderr


def test_the_snippet_runs_in_somebody_elses_loop() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(
        snippet + "before = model.weight.detach().clone()\n"
        "model(torch.ones(4, 10)).square().mean().backward()\noptimizer.step()\n"
        "moved = float((model.weight - before).norm() / before.norm())\n",
        names,
    )
    assert names["moved"] == pytest.approx(0.01, rel=0.01)


def test_the_claims_table_is_that_of_the_committed_results(tmp_path: Path) -> None:
    """Of the committed ones: a reader's own runs may have replaced those in the working tree."""
    path = "results/summaries/mlp_depth.csv"
    committed = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, check=True).stdout
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(committed)
    answer = subprocess.run(
        [sys.executable, str(ROOT / "scripts/claims.py"), "--results", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.count("|") > 30
    assert answer.stdout in (ROOT / "README.md").read_text()


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_bare_make_lists_the_targets() -> None:
    listing = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "reproduce-mlp-depth", "figures", "status", "test", "lint"):
        assert re.search(rf"^{target}\s+\w", listing, flags=re.MULTILINE)

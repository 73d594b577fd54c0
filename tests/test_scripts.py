"""The scripts' command lines: what is wrong with one is one line and exit status 2, before anything is done."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("claims", "--results {folder}/none", "there is no such folder"),
        ("claims", "--results {file}", "a file, no folder"),
        ("figures", "--results {folder}/none", "there is no such folder"),
        ("figures", "--results {file}", "a file, no folder"),
        ("figures", "typo --results {folder}", "experiments=typo: unknown, allowed are "),
        ("figures", "mlp_depth --scale typo --results {folder}", "--scale=typo: unknown, allowed are paper, "),
        ("prefetch_data", "typo", "choose from 'mnist'"),
        ("prefetch_data", "mnist --data {file}", "a file, no folder"),
        ("status", "--results {folder}/none", "there is no such folder"),
        ("status", "--results {file}", "a file, no folder"),
        ("status", "typo", "unrecognized arguments: typo"),
        ("clean", "--results {file}", "a file, no folder"),
        ("collect", "--results {folder}/none", "there is no such folder"),
        ("upload_wandb", "mlp_depth --results {folder}/none", "there is no such folder"),
        ("upload_wandb", "mlp_depth --results {folder}", "experiment=mlp_depth: no runs in"),
        ("upload_wandb", "", "the following arguments are required: experiment"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(
    script: Script, name: str, words: str, said: str, tmp_path: Path
) -> None:
    """A typo printed nothing and exited with 0; a file in a folder's place was a traceback."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    given = words.format(folder=tmp_path / "folder", file=tmp_path / "file").split()
    answer = script(name, *given)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("name", ["lr_comparison", "madam_bits"])
def test_a_comparison_of_benchmarks_that_was_run_at_smoke_scale_has_nothing_to_draw_and_says_so(
    script: Script, name: str
) -> None:
    """The scale was unknown, and ``make`` failed after all runs had ended well."""
    answer = script("figures", name, "--scale", "smoke")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"{name}: no runs of the scale smoke in" in answer.stdout

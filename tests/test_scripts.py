"""The scripts' command lines: what is wrong with one is one line and exit status 2, before anything is done."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("claims", "--results {folder}/none", "there is no such folder"),
        ("claims", "--results {file}", "a file, no folder"),
        ("figures", "--results {folder}/none", "there is no such folder"),
        ("figures", "--results {file}", "a file, no folder"),
        ("figures", "typo --results {folder}", "experiments=typo: unknown, allowed are mlp_depth"),
        ("figures", "mlp_depth --scale typo --results {folder}", "--scale=typo: unknown, allowed are paper, "),
        ("prefetch_data", "typo", "choose from 'mnist'"),
        ("prefetch_data", "mnist --data {file}", "a file, no folder"),
        ("status", "--results {folder}/none", "there is no such folder"),
        ("status", "--results {file}", "a file, no folder"),
        ("status", "typo", "unrecognized arguments: typo"),
        ("upload_wandb", "mlp_depth --results {folder}/none", "there is no such folder"),
        ("upload_wandb", "mlp_depth --results {folder}", "experiment=mlp_depth: no runs in"),
        ("upload_wandb", "", "the following arguments are required: experiment"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(
    script: str,
    words: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A typo printed nothing and exited with 0; a file in a folder's place was a traceback."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    given = words.format(folder=tmp_path / "folder", file=tmp_path / "file").split()
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *given])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert (leaving.value.code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert list((tmp_path / "folder").iterdir()) == []

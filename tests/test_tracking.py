"""W&B mirrors a run and never decides its fate. The real client is used; the public service is not."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reltrust.packing import runner as pack_runner
from reltrust.packing import size as pack_size
from reltrust.records import tracking
from reltrust.records.store import RunRecord
from reltrust.settings import Settings, Tracking
from reltrust.sweeps.plan import plan

Resolve = Callable[..., Settings]
Call = Callable[..., "subprocess.CompletedProcess[str]"]
RUN = ("scale=smoke", "machine.progress=false", "tracking.timeout_seconds=3")
KEY = "0" * 40


def statuses(folder: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in folder.glob("results/runs/*/*/*/status.json")]


def offline_content(folder: Path) -> bytes:
    (path,) = folder.glob("results/wandb/wandb/offline-run-*/*.wandb")
    return path.read_bytes()


def test_a_single_run_is_kept_for_wandb_offline_by_default(reltrust: Call, tmp_path: Path) -> None:
    answer = reltrust(*RUN)
    assert answer.returncode == 0, answer.stderr
    content = offline_content(tmp_path)
    for part in (b"train_accuracy", b"mlp_depth/fromage", b"fromage-depth2-lr0.01-seed0", b"digits", b"finished"):
        assert part in content


def test_wandb_is_not_imported_when_nobody_watches(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "reltrust", *RUN, "tracking=none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "torch" in imported
    assert "wandb" not in imported
    assert not (tmp_path / "results/wandb").exists()


def test_the_runs_of_a_multirun_are_not_watched_unless_asked(reltrust: Call, tmp_path: Path) -> None:
    assert reltrust("-m", *RUN, "seed=0,1").returncode == 0
    assert not (tmp_path / "results/wandb").exists()
    assert reltrust("-m", *RUN, "seed=2,3", "tracking=wandb_offline").returncode == 0
    assert len(list(tmp_path.glob("results/wandb/wandb/offline-run-*"))) == 2


class Refusing(BaseHTTPRequestHandler):
    """Answers every request as a server that is broken."""

    def do_POST(self) -> None:
        self.send_response(500)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def broken_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextmanager
def stalling_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """A port where no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("service", [nobody, stalling_server, broken_server], ids=["refused", "stalled", "broken"])
def test_a_service_out_of_reach_turns_the_mirror_offline_and_the_run_ends_well(
    reltrust: Call, tmp_path: Path, service: Callable[[], Iterator[str]]
) -> None:
    with service() as url:  # type: ignore[attr-defined]
        answer = reltrust(*RUN, "tracking=wandb", WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert answer.returncode == 0, answer.stderr
    assert statuses(tmp_path) == ["finished"]
    assert "W&B is out of reach" in answer.stderr
    assert b"train_accuracy" in offline_content(tmp_path)


def test_a_folder_that_wandb_cannot_write_to_does_not_stop_the_run(reltrust: Call, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/wandb").write_text("a file where W&B wants a folder")
    answer = reltrust(*RUN)
    assert answer.returncode == 0, answer.stderr
    assert "W&B does not watch this run" in answer.stderr
    assert statuses(tmp_path) == ["finished"]


def test_a_recorded_run_can_be_shown_to_wandb_later(reltrust: Call, tmp_path: Path) -> None:
    assert reltrust(*RUN, "tracking=none").returncode == 0
    script = Path(__file__).parents[1] / "scripts/upload_wandb.py"
    shown = subprocess.run(
        [sys.executable, str(script), "mlp_depth", "--offline"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    replayed = offline_content(tmp_path)
    assert b"train_accuracy" in replayed


def test_packed_runs_are_shown_when_they_have_ended(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, list[Any]] = {}

    class Watcher:
        def __init__(self, record: RunRecord, folder: Path, settings: Tracking) -> None:
            self.rows = shown.setdefault(record.path.name, [])
            assert record.status is not None
            assert record.status.is_result

        def log(self, row: dict[str, Any]) -> None:
            self.rows.append(row["step"])

        def finish(self, status: str, summary: dict[str, Any]) -> None:
            self.rows.append((status, summary["steps"]))

    monkeypatch.setattr(tracking, "WandbTracker", Watcher)
    monkeypatch.setattr(pack_size, "packing_gain", lambda *_: 2.0)
    words = ["tracking.mode=wandb_offline", "optimizer=sgd"]
    chosen = [settings(*words, f"optimizer.lr={lr}") for lr in (0.1, 1e30)]
    pack_runner.run_pack(plan(chosen), max_members=None, memory_fraction=0.5)
    assert list(shown.values()) == [[("diverged", 30)], [30, 60, 90, 120, ("finished", 120)]]

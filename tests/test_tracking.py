"""W&B mirrors a run and never decides its fate. The real client is used; the public service is not."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from reltrust.packing import runner as pack_runner
from reltrust.packing import size as pack_size
from reltrust.records import tracking, uploading
from reltrust.records.store import RunRecord, Status
from reltrust.records.tracking import NoTracker, open_tracker, replay
from reltrust.records.uploading import Upload
from reltrust.settings import Settings, Tracking
from reltrust.sweeps.plan import plan
from runs import begun, run
from sweep_processes import wait_until

Resolve = Callable[..., Settings]
Call = Callable[..., "subprocess.CompletedProcess[str]"]
Script = Callable[..., "subprocess.CompletedProcess[str]"]
RUN = ("scale=smoke", "machine.progress=false", "tracking.timeout_seconds=3")


# --- what W&B's client leaves behind ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_wandb_of_another_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No login, no mode and no service but the test's own; rows are in W&B's file when they are logged."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SERVICE", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "0.1")
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "0.1")
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def folders(results: str | Path) -> list[Path]:
    return sorted(Path(results, "wandb/wandb").glob("offline-run-*"))


def inspect(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in W&B's file, as W&B's own reader prints them."""
    import wandb.util

    (path,) = folder.glob("*.wandb")
    words = [wandb.util.get_core_path(), "leet", "inspect", "--json", "--no-observability", "--run-file", str(path)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return [record[kind] for record in map(json.loads, lines) if record["type"] == kind]


def history(folder: Path) -> list[dict[str, Any]]:
    return [record["item"] for record in inspect(folder, "history")]


def steps(folder: Path) -> list[int]:
    return [item["_step"] for item in history(folder)]


def status(folder: Path) -> str:
    return str(next(x["update"]["status"] for x in inspect(folder, "summary") if "status" in x["update"]))


# --- runs and services ------------------------------------------------------------------------------------------------


def watched(mode: str, seconds: float = 60.0) -> Tracking:
    return Tracking(mode=mode, project="reltrust", entity=None, timeout_seconds=seconds)  # type: ignore[arg-type]


def log_rows(record: RunRecord, tracker: tracking.Tracker, *steps: int) -> None:
    for step in steps:
        record.append({"step": step, "train_loss": 1 / step})
        tracker.log(record.metrics[-1])


def ended(settings: Settings, *steps: int, file: str = "") -> RunRecord:
    """A record of a run that nobody has watched."""
    record = begun(settings)
    log_rows(record, NoTracker(), *steps)
    if file:
        record.write_file(file, b"a walk")
    record.end(Status.FINISHED, {"steps": steps[-1]})
    return record


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("reltrust")]


def wait_for(condition: Callable[[], object]) -> None:
    """The suite's time limit is that of a condition which never comes."""
    while not condition():
        time.sleep(0.02)


class Service:
    """Answers as W&B's service does, as far as an upload needs it; can be sick in several ways."""

    def __init__(self) -> None:
        self.stalls: tuple[str, ...] = ()  # paths that are never answered any more
        self.broken = False
        self.requests = 0
        self.rows: dict[int, dict[str, Any]] = {}  # by line
        self.uploaded: dict[str, bytes] = {}
        self.closed = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.requests += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if any(part in self.path for part in service.stalls):
                    service.closed.wait()
                answer = json.dumps(service.answer(self.path, body)).encode()
                self.send_response(500 if service.broken else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *arguments: object) -> None:
                pass  # a client that is ended leaves its connections

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path.startswith("/upload/"):
            self.uploaded[path.removeprefix("/upload/")] = body
        if path.endswith("/file_stream"):
            part = json.loads(body).get("files", {}).get("wandb-history.jsonl", {})
            for line, text in enumerate(part.get("content", []), part.get("offset", 0)):
                self.rows[line] = json.loads(text)
        if not path.endswith("/graphql"):
            return {}
        given = json.loads(body).get("variables") or {}
        project = {"id": "p", "name": "reltrust", "entity": {"id": "e", "name": "somebody"}}
        bucket = {"id": "r", "name": given.get("name"), "displayName": "r", "project": project, "historyLineCount": 0}
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given.get("files", [])]
        data = {
            "upsertBucket": {"bucket": bucket, "inserted": True},
            "createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files},
        }
        return {"data": data}

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for _, row in sorted(self.rows.items())]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that is well and reached by everything in the test."""
    service = Service()
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield service
    service.closed.set()
    service.server.shutdown()
    service.server.server_close()


class Clock:
    """Stands for ``time`` where uploads are waited for: a tenth of a second goes by as a whole one."""

    def __init__(self) -> None:
        self.waited = 0.0

    def monotonic(self) -> float:
        return self.waited

    def sleep(self, seconds: float) -> None:
        self.waited += seconds
        time.sleep(seconds / 10)


# --- offline ----------------------------------------------------------------------------------------------------------


def test_a_single_run_is_kept_for_wandb_offline_by_default(
    reltrust_process: Call, service: Service, tmp_path: Path
) -> None:
    """The client's reports on itself were sent all the same, and a sick service held up the end of the process."""
    answer = reltrust_process(*RUN)
    assert answer.returncode == 0, answer.stderr
    (folder,) = folders(tmp_path / "results")
    assert steps(folder) == [30, 60, 90, 120]
    assert "train_accuracy" in history(folder)[0]
    assert status(folder) == "finished"
    (run,) = inspect(folder, "run")
    assert run["run_group"] == "mlp_depth/fromage"
    assert run["display_name"] == "fromage-depth2-lr0.01-seed0"
    assert run["tags"] == ["mlp_depth", "fromage", "digits"]
    assert service.requests == 0


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
    assert reltrust("-m", *RUN, "seed=2", "tracking=wandb_offline").returncode == 0
    assert len(folders(tmp_path / "results")) == 1


def test_a_folder_that_wandb_cannot_write_to_does_not_stop_the_run(
    settings: Resolve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = begun(settings())
    (tmp_path / "results/wandb").write_text("a file where W&B wants a folder")
    tracker = open_tracker(record, watched("wandb_offline"), tmp_path / "results")
    log_rows(record, tracker, 30)
    tracker.finish(Status.FINISHED, {})
    (line,) = told(caplog)
    assert "W&B does not watch this run" in line


def test_a_run_that_goes_on_offline_leaves_one_folder_with_the_whole_curve(settings: Resolve) -> None:
    """It left two with one id, each with a half; the rows between the checkpoint and the end stood in both."""
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb_offline"), chosen.machine.results)
    log_rows(record, tracker, 30, 60, 90)
    tracker.file("grid.txt", record.write_file("grid.txt", b"a grid"))
    record.preempted()
    tracker.finish(Status.PREEMPTED, {})
    (half,) = folders(chosen.machine.results)
    assert steps(half) == [30, 60, 90]

    time.sleep(1)  # W&B names its folders by the second
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb_offline"), chosen.machine.results)
    record.rewind(60)  # the checkpoint's step
    log_rows(record, tracker, 90, 120)
    record.end(Status.FINISHED, {})
    tracker.finish(Status.FINISHED, {})
    (whole,) = folders(chosen.machine.results)
    assert whole != half
    assert steps(whole) == [30, 60, 90, 120]
    assert (whole / "files/files/grid.txt").read_bytes() == b"a grid"


def test_a_run_that_goes_on_without_another_row_shows_the_recorded_ones(settings: Resolve) -> None:
    chosen = settings()
    record = begun(chosen)
    log_rows(record, NoTracker(), 30, 60)
    tracker = open_tracker(record, watched("wandb_offline"), chosen.machine.results)
    tracker.finish(Status.PREEMPTED, {})
    (folder,) = folders(chosen.machine.results)
    assert steps(folder) == [30, 60]


def test_pictures_are_shown_at_their_step_and_other_files_kept(settings: Resolve, tmp_path: Path) -> None:
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb_offline"), chosen.machine.results)
    Image.new("RGB", (4, 4)).save(tmp_path / "grid.png")
    for step in (30, 60):
        log_rows(record, tracker, step)
        for name in ("grid.png", "slice.png"):
            tracker.file(name, record.write_file(name, (tmp_path / "grid.png").read_bytes()))
        tracker.file("table.csv", record.write_file("table.csv", b"x\n%d\n" % step))
    tracker.finish(Status.FINISHED, {})
    (folder,) = folders(chosen.machine.results)
    for key in ("files/grid", "files/slice"):
        assert [item[f"{key}._type"] for item in history(folder)] == ["image-file", "image-file"]
    assert steps(folder) == [30, 60]  # beside the row, not after it
    assert [item["train_loss"] for item in history(folder)] == [1 / 30, 1 / 60]
    assert (folder / "files/files/table.csv").read_bytes() == b"x\n60\n"
    named = [file["path"] for record in inspect(folder, "files") for file in record["files"]]
    assert "files/table.csv" in named


def test_a_picture_that_is_none_does_not_stop_the_run(settings: Resolve, caplog: pytest.LogCaptureFixture) -> None:
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb_offline"), chosen.machine.results)
    tracker.file("grid.png", record.write_file("grid.png", b"no picture"))
    log_rows(record, tracker, 30)
    tracker.finish(Status.FINISHED, {})
    (line,) = told(caplog)
    assert "W&B does not watch this run" in line


# --- the environment --------------------------------------------------------------------------------------------------


class Client:
    """In place of W&B's: takes a row when it is let."""

    def __init__(self, folder: Path) -> None:
        self.dir, self.id, self.summary = str(folder / "wandb/offline-run-0-abc/files"), "abc", dict[str, Any]()
        self.let, self.shown, self.ended = threading.Event(), list[int](), False
        Path(self.dir).mkdir(parents=True)

    def log(self, row: dict[str, Any], step: int) -> None:
        self.let.wait()
        self.shown.append(step)

    def finish(self, exit_code: int) -> None:
        self.ended = True


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client(tmp_path)
    monkeypatch.setattr(tracking, "_start", lambda *_: (client, 0.0))
    monkeypatch.setattr(tracking, "WAITING", 3)
    return client


def test_rows_that_come_faster_than_the_client_takes_them_are_shown_in_order_when_the_run_has_ended(
    settings: Resolve, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb_offline"), chosen.machine.results)
    log_rows(record, tracker, *range(1, 11))  # one is being taken, three wait
    assert client.shown == []
    client.let.set()
    tracker.finish(Status.FINISHED, {})
    assert client.shown == list(range(1, 11))
    assert client.ended
    assert told(caplog) == []


def test_the_client_rests_after_a_row_until_the_run_has_ended(
    settings: Resolve, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "REST", 1e6)
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb_offline"), chosen.machine.results)
    client.let.set()
    log_rows(record, tracker, 1, 2, 3)
    wait_until(lambda: client.shown == [1])
    time.sleep(0.2)  # to take a row is a matter of microseconds here
    assert client.shown == [1]
    tracker.finish(Status.FINISHED, {})
    assert client.shown == [1, 2, 3]


def test_a_client_that_takes_no_more_rows_is_left_alone(
    settings: Resolve, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb_offline", seconds=0.1), chosen.machine.results)
    log_rows(record, tracker, *range(1, 11))
    tracker.finish(Status.FINISHED, {})
    assert not client.ended
    (line,) = told(caplog)
    assert "its client takes no more rows" in line
    client.let.set()  # the thread may go


def test_an_upload_that_gave_up_and_cannot_begin_again_does_not_fail_the_run(
    settings: Resolve, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb"), chosen.machine.results)
    client.let.set()
    assert isinstance(tracker, tracking.WandbTracker)
    assert tracker._upload is not None
    tracker._upload._process.kill()
    wait_for(lambda: tracker._upload is not None and not tracker._upload.running)

    def none_left(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(tracking, "Upload", none_left)
    tracker.finish(Status.FINISHED, {})
    assert "Resource temporarily unavailable" in caplog.text


@pytest.mark.parametrize("mode", ["wandb", "wandb_offline"])
def test_wandb_mode_disabled_writes_nothing(
    settings: Resolve, service: Service, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched(mode), chosen.machine.results)
    log_rows(record, tracker, 30)
    tracker.finish(Status.FINISHED, {})
    assert not Path(chosen.machine.results, "wandb").exists()
    assert service.requests == 0


def test_wandb_mode_offline_uploads_nothing(
    settings: Resolve, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb"), chosen.machine.results)
    log_rows(record, tracker, 30)
    tracker.finish(Status.FINISHED, {})
    (folder,) = folders(chosen.machine.results)
    assert steps(folder) == [30]
    assert service.requests == 0
    assert told(caplog) == []


# --- online -----------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_while_it_goes_and_whole_when_it_has_ended(
    settings: Resolve, service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb"), chosen.machine.results)
    log_rows(record, tracker, 30, 60)  # W&B keeps the last row back, for more of the same step
    wait_for(lambda: 30 in service.steps)
    log_rows(record, tracker, 90)
    Image.new("RGB", (4, 4)).save(tmp_path / "grid.png")
    tracker.file("grid.png", record.write_file("grid.png", (tmp_path / "grid.png").read_bytes()))
    tracker.file("walk.txt", record.write_file("walk.txt", b"a walk"))
    tracker.finish(Status.FINISHED, {"steps": 90})
    assert service.steps == [30, 60, 90]
    assert service.rows[2]["files/grid"]["_type"] == "image-file"
    assert service.uploaded["files/walk.txt"] == b"a walk"
    assert any(name.startswith("media/images/files/grid") for name in service.uploaded)
    assert json.loads(service.uploaded["wandb-summary.json"])["status"] == "finished"
    assert not (tmp_path / "wandb").exists()  # all that W&B writes is below the results
    assert told(caplog) == []


def nobody(service: Service) -> None:
    service.server.shutdown()
    service.server.server_close()


def stalled(service: Service) -> None:
    service.stalls = ("/",)


def stalled_stream(service: Service) -> None:
    service.stalls = ("file_stream",)


def broken(service: Service) -> None:
    service.broken = True


@pytest.mark.parametrize("sick", [nobody, stalled, stalled_stream, broken])
def test_a_sick_service_is_waited_for_no_longer_than_allowed_and_the_run_is_kept(
    settings: Resolve,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sick: Callable[[Service], None],
) -> None:
    """W&B's own time limits, one for each of its retries, added up to 30 to 70 seconds, most of them before step 1."""
    sick(service)
    clock = Clock()
    monkeypatch.setattr(uploading, "time", clock)
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb", seconds=20), chosen.machine.results)
    log_rows(record, tracker, 30, 60)
    assert clock.waited == 0
    tracker.finish(Status.FINISHED, {"steps": 60})
    assert 0 < clock.waited <= 20
    (folder,) = folders(chosen.machine.results)
    assert steps(folder) == [30, 60]
    assert status(folder) == "finished"
    (line,) = told(caplog)
    assert "kept for `wandb sync`" in line
    assert str(folder) in line


def test_what_a_service_lost_in_mid_run_has_not_got_is_synced_when_it_is_back(
    settings: Resolve, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb", seconds=20), chosen.machine.results)
    log_rows(record, tracker, 30, 60)
    wait_for(lambda: 30 in service.steps)
    service.stalls = ("/",)
    log_rows(record, tracker, 90)
    with monkeypatch.context() as patch:
        patch.setattr(uploading, "time", Clock())
        tracker.finish(Status.FINISHED, {})
    assert "kept for `wandb sync`" in caplog.text
    assert 90 not in service.steps
    service.stalls = ()
    (folder,) = folders(chosen.machine.results)
    assert Upload([folder]).wait(60) is None
    assert service.steps == [30, 60, 90]


def test_without_a_login_a_run_is_kept_and_told_why(
    settings: Resolve, monkeypatch: pytest.MonkeyPatch, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    chosen = settings()
    record = begun(chosen)
    tracker = open_tracker(record, watched("wandb"), chosen.machine.results)
    log_rows(record, tracker, 30)
    tracker.finish(Status.FINISHED, {})
    (line,) = told(caplog)
    assert "wandb login" in line
    (folder,) = folders(chosen.machine.results)
    assert steps(folder) == [30]


def test_an_upload_ends_with_a_run_that_is_killed(settings: Resolve, service: Service) -> None:
    """W&B would wait for more of the run for ever."""
    chosen = settings()
    record = begun(chosen)
    code = f"""
import os, psutil
from pathlib import Path
from reltrust.records.store import RunRecord
from reltrust.records.tracking import open_tracker
from reltrust.settings import Tracking
tracking = Tracking(mode="wandb", project="reltrust", entity=None, timeout_seconds=60.0)
tracker = open_tracker(RunRecord(Path({str(record.path)!r})), tracking, {chosen.machine.results!r})
running = [one.info for one in psutil.process_iter(["pid", "ppid", "cmdline"]) if one.info["ppid"] == os.getpid()]
(upload,) = (one["pid"] for one in running if "reltrust.records.uploading" in (one["cmdline"] or ()))
print(upload, flush=True)
input()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    upload = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: service.requests)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_for(lambda: not upload.is_running() or upload.status() == psutil.STATUS_ZOMBIE)


# --- later ------------------------------------------------------------------------------------------------------------


def test_recorded_runs_can_be_shown_later(settings: Resolve, service: Service, tmp_path: Path) -> None:
    records = [ended(settings("seed=0"), 30, 60, file="walk.txt"), ended(settings("seed=1"), 30, 60)]
    assert replay(records, watched("wandb"), tmp_path / "results") == []
    assert service.steps == [30, 60]
    assert service.uploaded["files/walk.txt"] == b"a walk"
    assert [steps(folder) for folder in folders(tmp_path / "results")] == [[30, 60]] * 2


def test_packed_runs_are_shown_when_they_have_ended(settings: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_size, "packing_gain", lambda *_: 2.0)
    words = ["tracking.mode=wandb_offline", "optimizer=sgd"]
    chosen = [settings(*words, f"optimizer.lr={lr}") for lr in (0.1, 1e30)]
    pack_runner.run_pack(plan(chosen), max_members=None, memory_fraction=0.5)
    shown = {status(folder): steps(folder) for folder in folders(chosen[0].machine.results)}
    assert shown == {"finished": [30, 60, 90, 120], "diverged": []}


# --- the script -------------------------------------------------------------------------------------------------------


def test_the_script_gives_every_run_with_a_result_to_wandb(
    settings: Resolve, service: Service, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [ended(settings(f"seed={seed}"), 30, 60) for seed in range(2)]
    begun(settings("seed=2")).preempted()
    answer = script("upload_wandb", "mlp_depth", "--results", settings().machine.results)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == [f"given to W&B: {record.path}" for record in records]
    assert service.steps == [30, 60]


def test_what_is_given_to_wandb_twice_is_there_once(settings: Resolve, service: Service, script: Script) -> None:
    """Also after the run, of which it had a part, has gone on, stopped and gone on again."""
    record = begun(settings())
    for step in (30, 60):
        record.append({"step": step, "train_loss": 1 / step})
    record.preempted()
    replay([record], watched("wandb"), settings().machine.results)
    assert service.steps == [30, 60]
    ended(settings(), 90)
    for _ in range(2):
        assert script("upload_wandb", "mlp_depth", "--results", settings().machine.results).returncode == 0
        assert service.steps == [30, 60, 90]  # by line, each in its place
    assert len(folders(settings().machine.results)) == 1


def test_the_key_is_in_no_record_no_log_and_no_message(
    settings: Resolve, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "5ec2e7" * 6 + "abcd"
    monkeypatch.setenv("WANDB_API_KEY", key)
    service.broken = True  # what the service refuses is told
    run(settings("tracking=wandb", "tracking.timeout_seconds=5"))
    results = Path(settings().machine.results)
    files = [path for path in results.rglob("*") if path.is_file()]
    assert [path for path in files if key.encode() in path.read_bytes()] == []
    assert any(path.suffix == ".wandb" for path in files)
    assert "W&B" in caplog.text
    assert key not in caplog.text


def test_the_script_refuses_what_has_no_runs_in_one_line(settings: Resolve, script: Script) -> None:
    """It printed nothing and exited with 0."""
    results = settings().machine.results
    begun(settings()).preempted()
    for name, reason in (("typo", "allowed are mlp_depth"), ("mlp_depth", "none of its 1 runs has a result")):
        answer = script("upload_wandb", name, "--results", results)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert reason in answer.stderr
        assert len(answer.stderr.splitlines()) == 1


def test_without_a_login_the_script_stops_at_once(settings: Resolve, script: Script) -> None:
    """It wrote offline files for every run, and said that it had given them to W&B."""
    ended(settings(), 30)
    answer = script("upload_wandb", "mlp_depth", "--results", settings().machine.results)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "wandb login" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert folders(settings().machine.results) == []


def test_the_script_stops_where_the_service_is_sick(
    settings: Resolve, script: Script, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.stalls = ("/",)
    monkeypatch.setattr(uploading, "time", Clock())
    for seed in range(20):
        ended(settings(f"seed={seed}"), 30)
    answer = script("upload_wandb", "mlp_depth", "--results", settings().machine.results)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert len(folders(settings().machine.results)) == 16  # those of the first upload


def test_the_script_obeys_wandb_mode(settings: Resolve, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(settings(), 30)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    answer = script("upload_wandb", "mlp_depth", "--results", settings().machine.results)
    assert answer.returncode == 2
    assert "WANDB_MODE=disabled" in answer.stderr
    monkeypatch.setenv("WANDB_MODE", "offline")
    answer = script("upload_wandb", "mlp_depth", "--results", settings().machine.results)
    assert answer.returncode == 0
    (folder,) = folders(settings().machine.results)
    assert steps(folder) == [30]

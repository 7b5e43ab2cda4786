"""The script of the GPU's minutes: stages that fail or hang, limits, what is packed, where images come from."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gpu_host import FOLDER, alive, make_host, make_options, write_archive, write_archives

import children  # isort: skip
import grids  # isort: skip
import images  # isort: skip
import packing  # isort: skip
import run  # isort: skip
import stages as stage_table  # isort: skip
import studies  # isort: skip
from host import Host, LateError, LeftOutError, StageError, commit  # isort: skip

from pipeline.design.plan import build_plan
from pipeline.design.spec import Device
from pipeline.design.study import Study, validated
from pipeline.design.turns import turn_groups
from pipeline.training.step import plan_windows

PARTS = 20_000  # bytes of a part in these tests


def folder_of(path: Path, **files: bytes) -> Path:
    """A folder with files; `__` in a name is a slash, `_dot_` a dot."""
    for name, content in files.items():
        file = path / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    path.mkdir(parents=True, exist_ok=True)
    return path


def packed(out: Path) -> dict[str, bytes]:
    """Name -> content of what the parts hold together."""
    parts = sorted(out.glob("results.tar.gz.*"), key=lambda path: int(path.suffix[1:]))
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts)), mode="r:gz") as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def rows_in(path: Path) -> int:
    store = sqlite3.connect(path)
    try:
        return int(store.execute("SELECT COUNT(*) FROM t").fetchone()[0])
    finally:
        store.close()


# packing


def test_the_stream_is_cut_into_parts_that_give_everything_back(tmp_path: Path) -> None:
    content = noise(90_000)
    found = folder_of(tmp_path / "evidence", doctor_dot_json=b"{}", logs__smoke_dot_txt=b"log", studies__a__r=content)
    state = folder_of(tmp_path / "mlruns", journal__1_dot_journal=b"j", artifacts__x__log_dot_txt=b"a", work__w=b"no")
    out = tmp_path / "out"
    document = packing.pack(out, {"stages": []}, found, state, "table\n", part_bytes=PARTS, most_parts=6)
    back = packed(out)
    assert set(back) == {
        "run.json",
        "doctor.json",
        "logs/smoke.txt",
        "studies/a/r",
        "mlruns/journal/1.journal",
        "mlruns/artifacts/x/log.txt",
    }
    assert back["studies/a/r"] == content
    names = [f"results.tar.gz.{n + 1}" for n in range(5)]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "run.json", "summary.txt"])
    assert json.loads((out / "run.json").read_text()) == document
    assert [part["name"] for part in document["parts"]] == names and document["left_out"] == []
    for part in document["parts"]:
        raw = (out / part["name"]).read_bytes()
        assert len(raw) == part["bytes"] <= PARTS and hashlib.sha256(raw).hexdigest() == part["sha256"]
    # less to pack: the parts that are too many go
    (found / "studies/a/r").write_bytes(b"small")
    packing.pack(out, {"stages": []}, found, state, "table\n", part_bytes=PARTS, most_parts=6)
    assert sorted(path.name for path in out.iterdir()) == ["results.tar.gz.1", "run.json", "summary.txt"]
    assert packed(out)["studies/a/r"] == b"small"


def test_the_commit_that_is_said_goes_before_that_of_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is lent had a copy of the tree with an older HEAD: the results named the wrong commit."""
    monkeypatch.setenv("ABLATE_COMMIT", "abc123")
    assert commit() == {"commit": "abc123"}
    monkeypatch.delenv("ABLATE_COMMIT")
    assert commit()["commit"] != "abc123"


def test_the_limits_are_those_of_the_host() -> None:
    assert packing.MOST_PARTS + 2 <= 8 and packing.PART_BYTES < 16 * 2**20


def test_the_store_is_copied_with_what_its_log_holds(tmp_path: Path) -> None:
    state = folder_of(tmp_path / "mlruns")
    store = sqlite3.connect(state / "mlflow.db")
    store.execute("PRAGMA journal_mode=WAL")
    store.execute("CREATE TABLE t (x)")
    store.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(7)])
    store.commit()
    assert (state / "mlflow.db-wal").stat().st_size
    packing.pack(tmp_path / "out", {}, folder_of(tmp_path / "evidence"), state, "")
    store.close()
    back = tmp_path / "back.db"
    back.write_bytes(packed(tmp_path / "out")["mlruns/mlflow.db"])
    assert rows_in(back) == 7


def test_a_store_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    state = folder_of(tmp_path / "mlruns", mlflow_dot_db=b"no database at all" * 100, journal__a=b"j")
    document = packing.pack(tmp_path / "out", {}, folder_of(tmp_path / "evidence", a=b"1"), state, "")
    assert set(packed(tmp_path / "out")) == {"run.json", "a", "mlruns/journal/a"}
    assert len(document["left_out"]) == 1 and document["left_out"][0].startswith("mlruns/mlflow.db: ")


@pytest.mark.parametrize("steps", range(5))
def test_what_is_left_out_first(steps: int, tmp_path: Path) -> None:
    log = noise(packing.LOG_TAIL + 100_000)
    found = folder_of(tmp_path / "evidence", logs__a_dot_txt=log, smoke_dot_txt=b"kept")
    state = folder_of(tmp_path / "mlruns", journal__j=noise(100_000, 1), artifacts__a=noise(100_000, 2))
    store = sqlite3.connect(state / "mlflow.db")
    store.execute("CREATE TABLE t (x BLOB)")
    store.execute("INSERT INTO t VALUES (?)", (noise(100_000, 3),))
    store.commit()
    store.close()
    room = (
        630_000 - 100_000 * steps
    )  # everything is 600,000 bytes that cannot be compressed, and each step saves 100,000
    document = packing.pack(tmp_path / "out", {}, found, state, "", part_bytes=room // 6, most_parts=6)
    assert document["left_out"] == list(packing.STEPS[:steps])
    assert len(list((tmp_path / "out").iterdir())) <= 8
    back = packed(tmp_path / "out")
    assert json.loads(back["run.json"])["left_out"] == document["left_out"]
    assert back["smoke.txt"] == b"kept"
    assert back["logs/a.txt"] == (log[-packing.LOG_TAIL :] if steps else log)
    assert ("mlruns/journal/j" in back, "mlruns/artifacts/a" in back, "mlruns/mlflow.db" in back) == (
        steps < 2,
        steps < 3,
        steps < 4,
    )


def test_what_is_too_large_after_all_steps_is_told_and_the_old_files_stay(tmp_path: Path) -> None:
    found, state, out = folder_of(tmp_path / "evidence", a=b"1"), folder_of(tmp_path / "mlruns"), tmp_path / "out"
    packing.pack(out, {}, found, state, "first", part_bytes=PARTS, most_parts=2)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (found / "b").write_bytes(noise(3 * PARTS))
    with pytest.raises(OSError, match=r"\d+ bytes to bring back, of 40000 allowed"):
        packing.pack(out, {}, found, state, "second", part_bytes=PARTS, most_parts=2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_kill_while_packing_leaves_a_whole_stream(tmp_path: Path) -> None:
    found, out = folder_of(tmp_path / "evidence", a=noise(200_000)), tmp_path / "out"
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import packing; from pathlib import Path\n"
        f"while True: packing.pack(Path({str(out)!r}), {{}}, Path({str(found)!r}), Path('absent'), 'x')"
    )
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-S", "-c", code])
        until = time.monotonic() + 20
        while not (out / "summary.txt").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.013 * attempt)
        process.kill()
        process.wait()
        assert packed(out)["a"] == noise(200_000)
        assert json.loads((out / "run.json").read_text())["parts"]


# commands and their limits


def run_child(code: str, tmp_path: Path, limit: float, grace: float = 0.5) -> tuple[children.Ended, str]:
    log = tmp_path / "log.txt"
    words = [sys.executable, "-S", "-c", code]
    ended = children.call(words, limit=limit, log=log, env=dict(os.environ), cwd=tmp_path, grace=grace)
    return ended, log.read_text()


def test_a_command_that_ends(tmp_path: Path) -> None:
    ended, text = run_child("print('said'); raise SystemExit(3)", tmp_path, 20)
    assert (ended.code, ended.late) == (3, False) and ended.seconds < 20
    assert "said" in text and text.splitlines()[-1].startswith("# exit status 3 after")
    assert children.last_line(tmp_path / "log.txt") == "said"


def test_at_its_limit_a_command_is_asked_first(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_): print('rows closed', flush=True); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, end)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    began = time.monotonic()
    ended, text = run_child(code, tmp_path, 1.5, grace=20)
    assert (ended.code, ended.late) == (130, True) and time.monotonic() - began < 15
    assert "rows closed" in text and "stopped at its limit" in text


def test_a_command_that_does_not_answer_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "if child: open('pids', 'w').write(f'{os.getpid()} {child}')\n"
        "time.sleep(60)"
    )
    ended, _ = run_child(code, tmp_path, 2.0)
    assert (ended.code, ended.late) == (-signal.SIGKILL, True)
    until = time.monotonic() + 5
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(pids) == 2 and not any(map(alive, pids))


# stages


def table_of(**stages: Callable[[Host], str] | stage_table.Stage) -> dict[str, stage_table.Stage]:
    return {
        name: stage if isinstance(stage, stage_table.Stage) else stage_table.Stage(10, stage)
        for name, stage in stages.items()
    }


def run_stages(
    tmp_path: Path, table: dict[str, stage_table.Stage], capsys: Any, **options: Any
) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, the rows of run.json, and standard output."""
    code = run.Run(make_options(tmp_path, list(table), **options), table).run()
    document = json.loads((tmp_path / "out" / "run.json").read_text())
    return code, document["stages"], capsys.readouterr().out


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of this table instead of the real ones, and no look for packages."""
    monkeypatch.setattr(run, "wheels", lambda _host: "")
    monkeypatch.setattr(run.Run, "_ready", lambda self: self._installed.set())


def raising(error: BaseException) -> Callable[[Host], str]:
    def stage(_host: Host) -> str:
        raise error

    return stage


@pytest.mark.usefixtures("quick")
def test_a_failing_stage_ends_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[list[str]] = []

    def look(_host: Host) -> str:
        seen.append([row["stage"] for row in json.loads((tmp_path / "out/run.json").read_text())["stages"]])
        return "fine"

    table = table_of(
        smoke=raising(StageError("3 of 57 failed")),
        probes=raising(ZeroDivisionError("a mistake")),
        launch=raising(LateError("half")),
        layout32=raising(LeftOutError("no GPU")),
        oom=look,
    )
    code, rows, out = run_stages(tmp_path, table, capsys)
    assert code == 1
    assert [(row["stage"], row["status"]) for row in rows] == [
        ("smoke", "failed"),
        ("probes", "failed"),
        ("launch", "timeout"),
        ("layout32", "left out"),
        ("oom", "ok"),
    ]
    assert [row["detail"] for row in rows[:2]] == ["3 of 57 failed", "ZeroDivisionError: a mistake"]
    assert rows[2]["detail"].endswith("s: half")
    assert seen == [["smoke", "probes", "launch", "layout32"]], "what there is was packed before the stage"
    lines = out.rstrip().splitlines()
    assert lines[-6].split() == ["stage", "seconds", "result"]
    assert [line.split()[0] for line in lines[-5:]] == [row["stage"] for row in rows]
    assert lines[-5].endswith("failed: 3 of 57 failed") and lines[-1].endswith("ok: fine")
    assert (tmp_path / "out/summary.txt").read_text().rstrip().splitlines() == lines[-6:]
    assert json.loads(packed(tmp_path / "out")["run.json"])["stages"] == rows


@pytest.mark.usefixtures("quick")
def test_all_well_or_left_out_is_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of(smoke=lambda _host: "fine", oom=raising(LeftOutError("not here")))
    code, rows, _ = run_stages(tmp_path, table, capsys)
    assert code == 0 and [row["status"] for row in rows] == ["ok", "left out"]


@pytest.mark.usefixtures("quick")
def test_a_hanging_stage_is_stopped_at_its_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "GRACE_SECONDS", 0.5)
    monkeypatch.setitem(stage_table.STAGES, "smoke", stage_table.Stage(2, lambda _host: ""))
    monkeypatch.setitem(stage_table.STAGES, "oom", stage_table.Stage(600, lambda _host: ""))

    def hang(host: Host) -> str:
        assert host.left < 3
        ended = host.python("smoke", ["-S", "-c", "import time; time.sleep(60)"])
        assert ended.late
        raise LateError("it hangs")

    began = time.monotonic()
    code, rows, _ = run_stages(tmp_path, table_of(smoke=hang, oom=lambda _host: "fine"), capsys)
    assert time.monotonic() - began < 20
    assert code == 1 and [row["status"] for row in rows] == ["timeout", "ok"]
    assert b"stopped at its limit" in packed(tmp_path / "out")["logs/smoke.txt"]


@pytest.mark.usefixtures("quick")
def test_an_interrupted_call_packs_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of(smoke=lambda _host: "fine", probes=raising(KeyboardInterrupt()), oom=lambda _host: "never")
    code, rows, out = run_stages(tmp_path, table, capsys)
    assert code == 130 and [row["stage"] for row in rows] == ["smoke"]
    assert out.rstrip().endswith("ok: fine")


@pytest.mark.usefixtures("quick")
def test_stages_that_need_images_are_left_out_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"paper32": stage_table.Stage(10, lambda _host: "never", images=True)}
    code, rows, _ = run_stages(tmp_path, table, capsys)
    assert code == 0 and rows[0]["status"] == "left out" and rows[0]["detail"].startswith("no images")


@pytest.mark.usefixtures("quick")
def test_packing_that_fails_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "pack", full)
    code = run.Run(make_options(tmp_path, ["smoke"]), table_of(smoke=lambda _host: "fine")).run()
    out = capsys.readouterr().out
    assert code == 1 and "packing: [Errno 28] No space left on device" in out and out.rstrip().endswith("ok: fine")


def test_limits_share_the_budget() -> None:
    names = list(stage_table.STAGES)
    shares = {name: stage.share for name, stage in stage_table.STAGES.items()}
    assert sum(shares.values()) + run.PACKING <= 600
    for scale in (0.5, 1.0, 2.0):
        left = 575 * scale
        for index, name in enumerate(names):
            limit, fair = run.limits_of(name, names[index + 1 :], left, scale)
            assert shares[name] * scale <= fair <= limit <= left
            assert limit <= max(fair, run.SLACK * shares[name] * scale)
            left -= shares[name] * scale
    # what earlier stages leave comes on top, and nothing goes past the end
    assert run.limits_of("paper32", ["oom"], 400, 1.0) == (400 - shares["oom"],) * 2
    assert run.limits_of("oom", [], 5, 1.0) == (5, 5)
    late = run.limits_of("paper32", ["paper224"], 160, 1.0)
    assert late == (160, shares["paper32"]), "slack may be taken from others, but nothing optional is made in it"


def test_chosen_stages_go_on_with_the_runs_that_are_there(tmp_path: Path) -> None:
    first = run.Run(make_options(tmp_path, ["oom"], budget=300, chosen=False), {})
    assert (first.host.scale, first.host.lengths) == (0.5, 0.5)
    (first.host.state / "mlflow.db").touch()
    (first.host.evidence / "smoke.txt").touch()
    second = run.Run(make_options(tmp_path, ["oom"], budget=150), {})
    assert (second.host.scale, second.host.lengths) == (0.25, 0.5), "the same lengths: the same runs"
    assert (second.host.state / "mlflow.db").exists() and not list(second.host.evidence.iterdir())
    third = run.Run(make_options(tmp_path, ["oom"], budget=1200, chosen=False), {})
    assert third.host.lengths == 2.0 and not (third.host.state / "mlflow.db").exists()


def test_bench_needs_its_time(tmp_path: Path) -> None:
    with pytest.raises(LeftOutError, match=r"^\d+ s left, 30 needed$"):
        stage_table.bench(make_host(tmp_path, 20))


def test_a_pass_is_begun_only_when_there_is_time_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def python(self: Host, _stage: str, words: list[str], *, limit: float, out: Path) -> children.Ended:
        calls.append(words[2] + words[4].removeprefix("launch") if words[2] == "grid" else words[2])
        out.write_text(json.dumps({"finished": 8}))
        seconds = 30.0 if words[2] == "grid" else 2.0
        self.deadline -= seconds
        self.fair -= seconds
        assert limit <= self.left + seconds + 0.1
        return children.Ended(0, seconds, False)

    monkeypatch.setattr(Host, "python", python)
    passes = studies.launch("cuda", 1.0)
    assert grids.grid(make_host(tmp_path / "a", 100), "launch", passes) == "8 runs, 2 of 2 passes"
    assert calls == ["grid-1.yaml", "grid-2.yaml", "report"]
    calls.clear()
    assert grids.grid(make_host(tmp_path / "b", 70), "launch", passes) == "8 runs, 1 of 2 passes"
    assert calls == ["grid-1.yaml", "report"]


def junit(path: Path, *bodies: str) -> Path:
    cases = "".join(f'<testcase name="test_{n}">{body}</testcase>' for n, body in enumerate(bodies))
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


def test_skipped_tests_are_no_passes(tmp_path: Path) -> None:
    skipped = junit(tmp_path / "a.xml", "<skipped/>", "<skipped/>")
    assert stage_table._verdict(skipped, "cpu") == ("2 skipped: no CUDA device", True)
    assert stage_table._verdict(skipped, "cuda") == ("0 passed, 2 skipped", False)
    mixed = junit(tmp_path / "b.xml", "", "<failure/>", "<error/>")
    assert stage_table._verdict(mixed, "cuda") == ("2 of 3 failed, first test_1", False)
    assert stage_table._verdict(junit(tmp_path / "c.xml", "", ""), "cuda") == ("2 passed", True)
    assert not stage_table._verdict(junit(tmp_path / "d.xml"), "cpu")[1]


# studies


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("scale", [0.2, 1.0, 2.0])
def test_every_study_can_be_planned_and_later_passes_hold_the_earlier(
    device: Device, scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for archive in sorted(write_archives(tmp_path / "archives").iterdir()):
        images.unpack(archive, tmp_path / images.NAME)
    monkeypatch.chdir(tmp_path)
    for make in (studies.launch, studies.paper32, studies.layout32, studies.paper224):
        before: set[str] = set()
        for fields in make(device, scale):
            plan = build_plan(validated(Study, fields, "test"), device)
            digests = {planned.spec.digest for planned in plan.runs}
            assert before < digests
            before = digests
    for fields in (studies.oom(device), studies.turns(device, scale)):
        assert build_plan(validated(Study, fields, "test"), device).runs
    groups = turn_groups(build_plan(validated(Study, studies.turns(device, scale), "test"), device))
    assert all(group.multiple * 2 <= group.runs[0].spec.recipe.max_train_samples for group in groups), "turn and head"


def test_lengths_follow_the_budget_and_leave_a_rest() -> None:
    lengths = [studies.length(50, 128, scale) for scale in (0.01, 0.4, 1.0, 1.6)]
    assert lengths == [4 * 128 + 80, 20 * 128 + 80, 50 * 128 + 80, 80 * 128 + 80]
    for samples in lengths:
        windows = plan_windows(samples, 128, 2)
        assert windows[-1].sizes == (80,) and windows[0].sizes == (128, 128)
    epochs = [studies.launch("cuda", scale)[0]["recipe"]["epochs"] for scale in (0.1, 0.5, 1.0)]
    assert epochs == [4, 10, 20]


# images


def test_images_as_archives(tmp_path: Path) -> None:
    found = images.look_in(write_archives(tmp_path / "archives"))
    assert found is not None and found.folder is None and len(found.archives) == 3
    (tmp_path / "work").mkdir()
    prepared: list[int] = []

    def prepare() -> str:
        prepared.append(len(list((tmp_path / "work" / images.NAME).glob("*/*/*.jpg"))))
        return ""

    coming = images.Images(found, tmp_path / "work", prepare)
    assert coming.ready(30) and coming.problem == "" and prepared == [3 * 20 + 3 * 10]
    marked = tmp_path / "work" / images.NAME / "train" / "cat" / "mark"
    marked.touch()
    assert images.Images(found, tmp_path / "work", prepare).ready(30) and marked.exists(), "the same: kept"
    write_archives(tmp_path / "archives", train=22)
    changed = images.look_in(tmp_path / "archives")
    coming = images.Images(changed, tmp_path / "work", prepare)
    assert coming.ready(30) and coming.problem == "" and not marked.exists()
    assert prepared == [90, 90, 96]


def test_archives_that_are_unpacked_at_once_make_the_same_folders(tmp_path: Path) -> None:
    names = [[f"train/class{number:03d}/{part}.jpg" for number in range(400)] for part in range(6)]
    archives = [write_archive(tmp_path / f"{part}-train.tar.gz", found) for part, found in enumerate(names)]
    words = [sys.executable, "-S", str(FOLDER / "images.py")]
    running = [subprocess.Popen([*words, str(archive), str(tmp_path / "to")]) for archive in archives]
    assert [process.wait(60) for process in running] == [0] * 6
    assert len(list((tmp_path / "to").glob("train/*/*.jpg"))) == 6 * 400


def test_images_as_a_folder(tmp_path: Path) -> None:
    for archive in sorted(write_archives(tmp_path / "archives").iterdir()):
        images.unpack(archive, tmp_path / "folder")
    found = images.find(str(tmp_path / "folder"), tmp_path)
    assert found == images.Found((tmp_path / "folder").resolve())
    (tmp_path / "work").mkdir()
    coming = images.Images(found, tmp_path / "work", lambda: "")
    assert coming.ready(10) and coming.problem == ""
    assert (tmp_path / "work" / images.NAME).resolve() == tmp_path / "folder"


def test_where_images_are_looked_for(tmp_path: Path) -> None:
    assert images.find(None, tmp_path) is None
    write_archives(tmp_path / ".data")
    found = images.find(None, tmp_path)
    assert found is not None and found.archives[0].parent == tmp_path / ".data"
    write_archives(tmp_path / "data")
    found = images.find(None, tmp_path)
    assert found is not None and found.archives[0].parent == tmp_path / "data"
    (tmp_path / "data" / "tiny-test-1of1.tar.gz").unlink()
    assert images.look_in(tmp_path / "data") is None, "without a test part there is nothing to run on"


def test_a_damaged_archive_is_a_problem_of_its_stages(tmp_path: Path) -> None:
    place = write_archives(tmp_path / "archives")
    content = gzip.decompress((place / "tiny-train-2of2.tar.gz").read_bytes())
    (place / "tiny-train-2of2.tar.gz").write_bytes(gzip.compress(content)[:-300])
    (tmp_path / "work").mkdir()
    coming = images.Images(images.look_in(place), tmp_path / "work", lambda: "never")
    assert coming.ready(30) and "tiny-train-2of2.tar.gz" in coming.problem and "EOFError" in coming.problem
    assert not (tmp_path / "work" / images.NAME).exists()


def test_members_cannot_leave_the_folder(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "bad-train.tar.gz", ["../out.jpg"])
    with pytest.raises(tarfile.OutsideDestinationError):
        images.unpack(archive, tmp_path / "inside")
    assert not (tmp_path / "out.jpg").exists()


# the command


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script without site-packages: before its first stage it can have nothing but the standard library."""
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **environment}
    line = [sys.executable, "-S", str(FOLDER / "run.py"), *words]
    return subprocess.run(line, env=kept, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["--stages", "smoke,nosuch"], {}, "--stages: 'nosuch' is not allowed; allowed: setup, smoke, probes,"),
        ([], {"STAGES": "smoke,,oom"}, "--stages: '' is not allowed"),
        ([], {"ABLATE_GPU_BUDGET": "soon"}, "ABLATE_GPU_BUDGET: 'soon' is not allowed; allowed: seconds, 60 to 86400"),
        ([], {"ABLATE_GPU_BUDGET": "nan"}, "ABLATE_GPU_BUDGET: 'nan' is not allowed"),
        ([], {"ABLATE_GPU_BUDGET": "5"}, "ABLATE_GPU_BUDGET: '5' is not allowed"),
        (["--device", "tpu"], {}, "argument --device: invalid choice: 'tpu'"),
        (["--data", "/nonexistent"], {}, "--data: '/nonexistent' is not allowed; allowed: a folder with train/"),
        (["--out", "/dev/null/x"], {}, "--out: '/dev/null/x' is not allowed (Not a directory)"),
        (["--nosuch"], {}, "unrecognized arguments: --nosuch"),
    ],
)
def test_bad_input_is_one_line(words: list[str], environment: dict[str, str], said: str, tmp_path: Path) -> None:
    common = ["--device", "cpu", "--work", str(tmp_path / "w")]
    if "--out" not in words:
        common += ["--out", str(tmp_path / "o")]
    done = command(*common, *words, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"gpu: {said}")


def test_wheels_are_installed_where_something_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_table, "REPO", tmp_path)
    monkeypatch.setattr(stage_table, "NEEDED", ("json",))
    host = make_host(tmp_path / "work")
    assert stage_table.wheels(host) == "" and not host.site.exists()
    monkeypatch.setattr(stage_table, "NEEDED", ("json", "only_in_a_wheel"))
    with pytest.raises(
        StageError, match=r"^not installed: only_in_a_wheel \(experiments/gpu/wheels.sh fetches wheels\)$"
    ):
        stage_table.wheels(host)
    (tmp_path / ".whl").mkdir()
    with zipfile.ZipFile(tmp_path / ".whl" / "only_in_a_wheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("only_in_a_wheel.py", "")
        info = "only_in_a_wheel-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: only-in-a-wheel\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    assert stage_table.wheels(host) == "1 wheels installed; "
    assert stage_table.wheels(host) == "", "the second call finds it"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a CUDA device")
def test_without_a_cuda_device_the_rehearsal_is_offered(tmp_path: Path) -> None:
    done = command("--out", str(tmp_path / "o"), "--work", str(tmp_path / "w"))
    assert done.returncode == 2 and "allowed: cpu, as a rehearsal" in done.stderr

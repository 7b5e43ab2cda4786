"""A stage that is a study: made in passes, then reported. Standard library only."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing

from children import last_line
from host import Host, LateError, StageError
from studies import Study

END_SECONDS = 20.0  # of a call whose rounds are over: processes end, and the store is told
REPORT_SECONDS = 12.0  # kept back: what has been measured is reported in any case


def grid(host: Host, stage: str, passes: Sequence[Study]) -> str:
    """Makes a study in passes, as many as the time allows, and reports what there is."""
    name = str(passes[0]["name"])
    made, problem, late, seconds, finished = 0, "", False, 0.0, 0
    for number, study in enumerate(passes, 1):
        if number > 1 and host.fair - time.monotonic() - REPORT_SECONDS < 1.1 * seconds:
            break
        file, answer = host.work / f"{name}-{number}.yaml", host.work / f"{name}.json"
        file.write_text(json.dumps(study, indent=1))  # JSON is YAML
        words = ["-m", "pipeline", "grid", "--study", file.name, "--device", host.device]
        words += ["--tracking-uri", host.store, "--json"]
        ended = host.python(stage, words, limit=host.left - REPORT_SECONDS, out=answer)
        late, seconds = ended.late, ended.seconds
        if ended.code or late:
            problem = first_error(host, name) or last_line(host.log(stage)) or f"exit status {ended.code}"
            break
        made, finished = number, int(json.loads(answer.read_text())["finished"])
    said = f"{finished} runs, {made} of {len(passes)} passes{_tainted(host, name)}"
    reported = _report(host, stage, name)
    if late:
        raise LateError(f"{said}; {reported or 'reported as far as it came'}")
    if problem or reported:
        raise StageError("; ".join(filter(None, [problem, reported])))
    return said


def rounds(host: Host, stage: str, study: Study, precision: float) -> str:
    """Has a study's cells take turns until their effects are known to `precision`, or time is over; reports them."""
    name = str(study["name"])
    folder = host.evidence / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    file, answer = host.work / f"{name}.yaml", folder / "speed.json"
    file.write_text(json.dumps(study, indent=1))  # JSON is YAML
    limit = host.left - REPORT_SECONDS
    words = ["-m", "pipeline", "speed", "--study", file.name, "--device", host.device, "--tracking-uri", host.store]
    words += ["--json", "--precision", f"{precision:g}", "--max-seconds", f"{max(limit - END_SECONDS, 1):.0f}"]
    ended = host.python(stage, words, limit=limit, out=answer)
    reported = _report(host, stage, name)
    if ended.late:
        raise LateError(reported or "reported as far as it came")
    try:
        groups = json.loads(answer.read_text())["groups"]
    except (OSError, ValueError, KeyError):
        groups = []
    if ended.code or reported or not groups:
        why = first_error(host, name) or last_line(host.log(stage))
        raise StageError("; ".join(filter(None, ["" if groups and not ended.code else why, reported])))
    made = ", ".join(f"{group['model']} {group['rounds']}" for group in groups)
    decided = sum(group["decided"] for group in groups)
    cells = sum(len(group["cells"]) for group in groups)
    said = f"{cells} cells, rounds: {made}; {decided} of {len(groups)} models known to {100 * precision:g} %"
    return said + _tainted(host, name)


def _report(host: Host, stage: str, name: str) -> str:
    """Writes a study's report; returns what went wrong, or nothing."""
    words = ["-m", "pipeline", "report", name, "--json", "--out", str(host.evidence / "studies" / name)]
    words += ["--tracking-uri", host.store]
    ended = host.python(stage, words, limit=max(host.left, REPORT_SECONDS), out=host.work / "report.json")
    return f"report: {last_line(host.log(stage))}" if ended.code else ""


def _ask(host: Host, name: str, key: str) -> list[tuple[str, str]]:
    """(run, value) of a tag over a study's runs; read without MLflow, which takes seconds to import."""
    if not (host.state / "mlflow.db").is_file():
        return []
    question = (
        "SELECT r.name, t.value FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid JOIN experiments e "
        "ON e.experiment_id = r.experiment_id WHERE e.name = ? AND t.key = ? AND t.value != '' ORDER BY r.start_time"
    )
    try:
        with closing(sqlite3.connect(host.state / "mlflow.db", timeout=5)) as store:
            return [(str(run), str(value)) for run, value in store.execute(question, (name, key))]
    except sqlite3.Error:
        return []


def first_error(host: Host, name: str) -> str:
    """How many runs of a study failed, and the first one's error; empty where none did."""
    errors = _ask(host, name, "ablate.error")
    return f"{len(errors)} runs failed, first {errors[0][0]}: {errors[0][1]}" if errors else ""


def _tainted(host: Host, name: str) -> str:
    doubted = _ask(host, name, "ablate.tainted")
    return f", {len(doubted)} runs tainted ({doubted[0][1]})" if doubted else ""

"""What a run on a GPU packed becomes a publication, with its own numbers and no others."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import publish
import pytest
from claims import load

from tests.support.packed_evidence import H100, ROOT, RUN, pack, rows_of, tree, write_rest

FOLDER = "nvidia-h100-80gb-hbm3-2026-11-26"
MARKED = "# x\n<!-- gpu-results:begin -->\nold\n<!-- gpu-results:end -->\nrest\n"


def copied(source: Path, to: Path, run: dict | None = None) -> Path:
    shutil.copytree(source, to)
    if run:
        (to / "run.json").write_text(json.dumps(run))
    return to


def refused(capsys, *arguments) -> str:
    assert publish.main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def published(evidence: Path, out: Path, *more) -> Path:
    assert publish.main([str(evidence), "--results", str(out), *map(str, more)]) == 0
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(scope="module")
def publication(gpu_evidence, tmp_path_factory) -> Path:
    """From parts in the order in which a shell sorts them: 1, 10, 11, 2, ..."""
    place = tmp_path_factory.mktemp("publication")
    parts = sorted(map(str, pack(gpu_evidence, place / "parts", parts=11)))
    (place / "README.md").write_text(MARKED)
    assert publish.main([*parts, "--results", str(place / "out"), "--readme", str(place / "README.md")]) == 0
    return place / "out" / FOLDER


@pytest.fixture(scope="module")
def claim_rows(publication) -> dict[str, list[str]]:
    rows = rows_of((publication / "README.md").read_text(), "## Claims")
    known = load(ROOT / "experiments/gpu/claims.yaml")
    assert len(rows) == len(known)
    return {claim.id: row for claim, row in zip(known, rows, strict=True)}


def effect_of(publication: Path, study: str, **where) -> pd.Series:
    table = pd.read_csv(publication / study / "effects.csv")
    for name, value in where.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def test_the_folder_has_everything_but_the_raw_store(publication, gpu_evidence):
    made = tree(publication)
    expected = {"README.md", "provenance.json", "probes.json", "smoke.txt"}
    for study in ("paper32", "layout32", "paper224"):
        expected |= {f"{study}/{name}" for name in ("report.md", "report.html", "effects.csv", "runs.csv")}
        for name in ("report.md", "effects.csv", "runs.csv"):
            assert made[f"{study}/{name}"] == (gpu_evidence / "studies" / study / name).read_bytes()
    assert set(made) == expected


def test_the_provenance_names_every_file_of_the_evidence(publication, gpu_evidence):
    found = json.loads((publication / "provenance.json").read_text())
    assert found["run"] == RUN
    assert found["doctor"]["checks"][0]["detail"] == H100
    assert found["studies"]["paper32"]["gpu_name"] == [H100]
    digests = {entry["path"]: (entry["bytes"], entry["sha256"]) for entry in found["evidence"]}
    content = tree(gpu_evidence)
    assert digests == {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items()}
    assert "mlruns/mlflow.db" in digests


def test_a_claim_about_an_effect_has_the_numbers_of_effects_csv(publication, claim_rows):
    for study, key, where in (
        ("paper32", "paper-combined-resnet50", {"kind": "combined", "response": "train_seconds"}),
        ("paper32", "paper-amp-alone-resnet50", {"kind": "simple", "term": "amp", "response": "train_seconds"}),
        ("layout32", "amp-resnet50", {"kind": "simple", "term": "amp", "response": "images_per_second"}),
        ("layout32", "channels-last-needs-amp", {"term": "amp:channels_last", "response": "images_per_second"}),
    ):
        row = effect_of(publication, study, model="resnet50", **where)
        expected = f"{row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}] {row['verdict'].replace('_', ' ')}"
        assert claim_rows[key][1] == f"{expected} (3 blocks, batch 128)"
    loader = "efficientnet_b0 [input_pipeline=loader]"
    row = effect_of(publication, "paper224", model=loader, kind="combined", response="train_seconds")
    assert claim_rows["paper-combined-efficientnet"][1].startswith(f"{row['estimate']:.3f} [{row['low']:.3f}, ")


def test_a_claim_about_a_cell_has_the_mean_of_the_report_and_students_interval(gpu_evidence, claim_rows):
    report = json.loads((gpu_evidence / "studies/paper224/report.json").read_text())
    gather = "efficientnet_b0 [input_pipeline=gather]"
    (cell,) = (
        c for c in report["cells"]
        if (c["model"], c["cell"], c["response"]) == (gather, "amp", "images_per_second")
    )  # fmt: skip
    runs = pd.read_csv(gpu_evidence / "studies/paper224/runs.csv")
    runs = runs[
        runs["params.model"].eq("efficientnet_b0")
        & runs["params.recipe.input_pipeline"].eq("gather")
        & runs["params.techniques"].eq("amp")
    ]
    first, second = (math.log(value) for value in runs["metrics.throughput/images_per_second"])
    mean = math.exp((first + second) / 2)
    half = 12.7062 * abs(first - second) / 2  # Student's t with one degree of freedom
    assert mean == pytest.approx(cell["mean"], rel=1e-12)
    low, high = mean * math.exp(-half), mean * math.exp(half)
    text = claim_rows["efficientnet-above-a100"][1]
    found = [float(number.replace(",", "")) for number in re.findall(r"[\d,]+", text.partition("]")[0])]
    assert found == pytest.approx([mean, low, high], rel=1e-3)
    assert text.endswith("images/s (2 blocks, batch 96)")


def test_a_ratio_of_two_cells_is_taken_within_the_blocks(gpu_evidence, claim_rows):
    runs = pd.read_csv(gpu_evidence / "studies/layout32/runs.csv")
    rate = runs.pivot_table(
        index="tags.ablate.block", columns="params.techniques", values="metrics.throughput/images_per_second"
    )
    logs = (rate["amp+channels_last"] / rate["amp"]).map(math.log)
    half = 4.30265 * logs.std() / math.sqrt(3)
    expected = [math.exp(logs.mean() + shift) for shift in (0, -half, half)]
    assert claim_rows["channels-last-amp"][1] == "{:.3f} [{:.3f}, {:.3f}] (3 blocks, batch 128)".format(*expected)


def test_verdicts_are_those_of_the_rules(claim_rows):
    verdicts = {key: row[4] for key, row in claim_rows.items()}
    assert verdicts["paper-combined-resnet50"] == "agrees"  # planted: 0.63 of the time
    assert verdicts["paper-pm-alone-resnet50"] == "nothing to compare"
    assert verdicts["amp-resnet50"] == "differs"  # planted: 1.8 times as fast, claimed from 2.2 on
    assert verdicts["channels-last-fp32"] == "agrees"  # planted: costs without amp
    assert verdicts["graphs-saturated"] == "undecided"  # 1 % noise does not show equivalence within 1 %
    assert verdicts["channels-last-amp"] == "undecided"  # an edge of the range lies in the interval
    assert verdicts["efficientnet-above-a100"] == "agrees"
    assert verdicts["matmul-bf16"] == "agrees"
    assert claim_rows["matmul-bf16"][1] == "731.2 TFLOP/s (no interval)"
    assert verdicts["graphs-launch-bound"] == verdicts["resnet50-224"] == "not measured"
    assert claim_rows["graphs-launch-bound"][1] == "stage launch: timeout (60 s \0 limit)"
    assert claim_rows["resnet50-224"][1] == "no figure images_per_second of a probe resnet50_224"


def test_the_readme_says_what_ran_and_what_is_missing(publication):
    text = (publication / "README.md").read_text()
    assert text.startswith(f"# {H100}, 2026-11-26\n")
    facts = dict(rows_of(text, "2026-11-26"))
    assert facts["driver"] == "580.65"
    assert facts["torch"] == "2.11.0+cu130"
    assert facts["commit"] == RUN["commit"]
    assert facts["took"] == "432 s of a budget of 540 s"
    assert [row[:3] for row in rows_of(text, "## Stages")] == [
        ["smoke", "ok", "98.2"],
        ["paper32", "ok", "120.0"],
        ["launch", "timeout", "60.0"],
        ["bench", "left out", "0.0"],
    ]
    assert "15 passed, 2 failed, 3 skipped." in text
    assert "`smoke.txt` has the last 60 of 100 lines" in text
    assert (publication / "smoke.txt").read_text().splitlines() == [f"line {n}" for n in range(40, 100)]
    assert ["matmul", "bf16_tflops", "731.25"] in rows_of(text, "## Probes")
    assert "None: stage bench: left out (no time left)." in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (publication / link).is_file(), link


def test_the_effects_of_a_study_are_those_of_effects_csv(publication):
    rows = {row[2]: row for row in rows_of((publication / "README.md").read_text(), "### paper32")}
    assert list(rows) == ["ga (main)", "amp (main)", "pm (main)", "ga+amp+pm (combined)", "ga+amp+pm (synergy)"]
    names = ("train_seconds", "images_per_second", "gpu_peak_allocated_mib", "gpu_joules")
    for column, response in enumerate(names, start=3):
        row = effect_of(publication, "paper32", kind="main", term="amp", response=response)
        expected = f"{row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}] {row['verdict']}"
        assert rows["amp (main)"][column] == expected
    assert rows_of((publication / "README.md").read_text(), "### paper224")[0][:2] == ["all", "all"]


def test_the_projects_readme_quotes_it_between_the_markers(publication, claim_rows):
    text = (publication.parents[1] / "README.md").read_text()
    assert text.startswith("# x\n<!-- gpu-results:begin -->\nMeasured on one NVIDIA H100 80GB HBM3 on 2026-11-26")
    assert text.endswith("<!-- gpu-results:end -->\nrest\n")
    assert f"(out/{FOLDER}/README.md)" in text
    assert "old" not in text
    rows = rows_of(text, "gpu-results:begin -->\n" + text.splitlines()[2])
    measured = [row for row in claim_rows.values() if row[4] in ("agrees", "differs", "undecided")]
    assert rows == [[row[0], row[1], row[2], row[4]] for row in measured]
    assert f"{sum(row[4] == 'agrees' for row in measured)} agree" in text


def test_the_same_evidence_gives_the_same_bytes(publication, gpu_evidence, tmp_path):
    before = tree(publication)
    readme = publication.parents[1] / "README.md"
    kept = readme.read_bytes()
    arguments = ["--results", str(publication.parent), "--readme", str(readme)]
    assert publish.main([str(gpu_evidence), *arguments]) == 0  # over itself, and from the unpacked folder
    assert tree(publication) == before
    assert readme.read_bytes() == kept
    parts = pack(gpu_evidence, tmp_path / "parts", parts=2)
    assert tree(published(parts[0].parent, tmp_path / "out")) == before  # a folder that holds the parts
    (parts[0].parent / "run.json").write_text("{}")  # as run.py leaves one beside them
    assert tree(published(parts[0].parent, tmp_path / "again")) == before
    assert [path.name for path in publication.parent.iterdir()] == [FOLDER]


def test_another_runs_folder_is_kept_without_replace(gpu_evidence, tmp_path, capsys):
    folder = published(gpu_evidence, tmp_path / "out")
    before = tree(folder)
    later = copied(gpu_evidence, tmp_path / "later", {**RUN, "began": "2026-11-26T23:59:00Z"})
    line = refused(capsys, later, "--results", tmp_path / "out")
    assert "another run" in line
    assert "--replace" in line
    assert tree(folder) == before
    shutil.rmtree(later / "studies" / "layout32")
    published(later, tmp_path / "out", "--replace")
    assert json.loads((folder / "provenance.json").read_text())["run"]["began"] == "2026-11-26T23:59:00Z"
    assert not (folder / "layout32").exists()


def test_a_missing_part_is_named(gpu_evidence, tmp_path, capsys):
    parts = pack(gpu_evidence, tmp_path / "parts", parts=4)
    out = tmp_path / "out"
    assert "missing: results.tar.gz.2" in refused(capsys, parts[3], parts[0], parts[2], "--results", out)
    assert "after results.tar.gz.3 is missing" in refused(capsys, *parts[:3], "--results", out)
    (tmp_path / "other").mkdir()
    shutil.copy(parts[1], tmp_path / "other")
    twice = refused(capsys, *parts, tmp_path / "other" / parts[1].name, "--results", out)
    assert "part 2 is given twice" in twice
    assert not out.exists()


def test_damaged_parts_are_refused(gpu_evidence, tmp_path, capsys):
    parts = pack(gpu_evidence, tmp_path / "parts", parts=3)
    whole = parts[2].read_bytes()
    for position in (len(whole) // 2, len(whole) - 6):  # in the data, and in the checksum at the very end
        parts[2].write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        assert "damaged" in refused(capsys, *parts, "--results", tmp_path / "out")
    middle = len(whole) // 2
    parts[2].write_bytes(whole[:middle] + bytes([0xFF]) * 2000 + whole[middle + 2000 :])  # no valid block at all
    assert "damaged" in refused(capsys, *parts, "--results", tmp_path / "out")
    parts[0].write_bytes(b"no gzip at all")
    assert "damaged" in refused(capsys, *parts, "--results", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt", "studies/../../escaped.txt"])
def test_members_outside_the_archive_are_refused(name, tmp_path, capsys):
    write_rest(tmp_path / "evidence")
    member = tarfile.TarInfo(name)
    member.size = 3
    parts = pack(tmp_path / "evidence", tmp_path / "parts", 2, extra=(member,))
    assert repr(name) in refused(capsys, *parts, "--results", tmp_path / "out")
    assert not list(tmp_path.parent.rglob("escaped.txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind, tmp_path, capsys):
    write_rest(tmp_path / "evidence")
    member = tarfile.TarInfo("logs/odd")
    member.type, member.linkname = kind, "run.json"
    parts = pack(tmp_path / "evidence", tmp_path / "parts", 2, extra=(member,))
    assert "'logs/odd'" in refused(capsys, *parts, "--results", tmp_path / "out")
    (tmp_path / "evidence/logs/link").symlink_to("/etc/hostname")
    assert "'logs/link'" in refused(capsys, tmp_path / "evidence", "--results", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "run.json: not JSON"),
        ("[]", "run.json: document"),
        (json.dumps({**RUN, "device": "tpu"}), "run.json: device: "),
        (json.dumps({**RUN, "gpu": ""}), "run.json: gpu: '' is not allowed"),
        (json.dumps({**RUN, "began": "2026-11-26T23:30:00"}), "run.json: began: "),
        (None, "there is no run.json"),
    ],
)
def test_a_run_json_that_is_none_is_refused(content, said, tmp_path, capsys):
    write_rest(tmp_path / "evidence")
    (tmp_path / "evidence/run.json").unlink()
    if content is not None:
        (tmp_path / "evidence/run.json").write_text(content)
    parts = pack(tmp_path / "evidence", tmp_path / "parts", 2)
    assert said in refused(capsys, *parts, "--results", tmp_path / "out")


def test_a_rehearsal_on_a_cpu_never_becomes_a_result(gpu_evidence, tmp_path, capsys, monkeypatch):
    evidence = copied(gpu_evidence, tmp_path / "evidence", {**RUN, "device": "cpu", "gpu": ""})
    results = ROOT / "experiments" / "results"
    before, readme = tree(results), (ROOT / "README.md").read_bytes()
    (tmp_path / "shortcut").symlink_to(results)
    monkeypatch.chdir(ROOT)
    for place in ((), ("--results", "experiments/results"), ("--results", tmp_path / "shortcut" / "deeper")):
        assert "a rehearsal" in refused(capsys, evidence, *place)
    assert tree(results) == before
    (tmp_path / "README.md").write_text(MARKED)
    folder = published(evidence, tmp_path / "out", "--readme", tmp_path / "README.md")
    assert folder.name == "cpu-rehearsal-2026-11-26"
    text = (folder / "README.md").read_text()
    assert text.splitlines()[0] == "Rehearsal on a CPU: no figure here is a GPU's"
    rows = rows_of(text, "## Claims")
    assert {(row[1], row[4]) for row in rows} == {("rehearsal on a CPU", "not measured")}
    assert (tmp_path / "README.md").read_text() == MARKED
    assert (ROOT / "README.md").read_bytes() == readme


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("params.device", "cpu", "1 of 24 rows do not say that they ran on a GPU"),
        ("tags.env.gpu_name", "NVIDIA L4", f"rows ran on NVIDIA L4, run.json says {H100}"),
        ("tags.env.gpu_name", None, "1 of 24 rows do not name their GPU"),
    ],
)
def test_a_study_with_a_row_of_another_device_is_withheld(column, value, said, gpu_evidence, tmp_path):
    evidence = copied(gpu_evidence, tmp_path / "evidence")
    path = evidence / "studies/paper32/runs.csv"
    runs = pd.read_csv(path, dtype=str)
    runs.loc[5, column] = value
    runs.to_csv(path, index=False)
    folder = published(evidence, tmp_path / "out")
    assert not (folder / "paper32").exists()
    text = (folder / "README.md").read_text()
    assert f"Withheld: {said}." in text
    claim = next(row for row in rows_of(text, "## Claims") if row[0].endswith("training of ResNet50"))
    assert claim[1] == f"paper32 is withheld: {said}"
    assert claim[4] == "not measured"
    assert f"- study paper32: {said}" in text


def test_a_benchmark_is_published_unless_a_race_ran_on_a_cpu(tmp_path):
    write_rest(tmp_path / "evidence")
    (tmp_path / "evidence/bench").mkdir()
    row = {"model": "resnet50", "name": "over_bare", "ratio": 1.01, "low": 1.0, "high": 1.02, "unit": "ratio"}
    for device in ("cuda", "cpu"):
        document = json.dumps({"rows": [row], "cases": [{"device": device}]})
        (tmp_path / "evidence/bench/bench.json").write_text(document)
        (tmp_path / "evidence/bench/bench.md").write_text("# bench\n")
        folder = published(tmp_path / "evidence", tmp_path / device)
        text = (folder / "README.md").read_text()
        assert ("| resnet50 | over_bare | 1.010 [1.000, 1.020] ratio |" in text) == (device == "cuda")
        assert (folder / "bench/bench.md").is_file() == (device == "cuda")
        assert ("- the benchmark: its cases did not run on a GPU" in text) == (device == "cpu")


def test_races_of_several_models_are_published_together(tmp_path):
    write_rest(tmp_path / "evidence")
    for model, folder in (("test_resnet", "bench"), ("resnet50", "bench/resnet50")):
        (tmp_path / "evidence" / folder).mkdir()
        row = {"model": model, "name": "over_bare", "ratio": 0.99, "low": None, "high": None, "unit": "ratio"}
        document = json.dumps({"rows": [row], "cases": [{"device": "cuda"}]})
        (tmp_path / "evidence" / folder / "bench.json").write_text(document)
        (tmp_path / "evidence" / folder / "bench.md").write_text(f"# {model}\n")
    made = published(tmp_path / "evidence", tmp_path / "out")
    text = (made / "README.md").read_text()
    assert sorted(row[0].replace("\\", "") for row in rows_of(text, "## Benchmark")) == ["resnet50", "test_resnet"]
    assert (made / "bench/resnet50/bench.md").read_text() == "# resnet50\n"
    assert {"bench.json", "bench.md"} <= {path.name for path in (made / "bench").iterdir()}


def test_what_a_dead_stage_left_behind_is_said_and_never_a_crash(gpu_evidence, tmp_path):
    evidence = copied(gpu_evidence, tmp_path / "evidence")
    for name in ("probes.json", "smoke.xml", "doctor.json", "studies/paper32/report.json"):
        (evidence / name).write_text((evidence / name).read_text()[:-20])
    (evidence / "studies/layout32/effects.csv").write_text("model,dataset\nresnet50,x\n")
    (evidence / "studies/paper224/runs.csv").unlink()
    (evidence / "studies/oom").mkdir()
    page = evidence / "studies/paper32/report.html"
    page.write_bytes(page.read_bytes() + b" " * 2**20)
    folder = published(evidence, tmp_path / "out")
    text = (folder / "README.md").read_text()
    for said in (
        "- probes.json is there, but is not JSON",
        "- smoke.xml is there, but cannot be read",
        "- doctor.json is there, but is not JSON",
        f"- paper32/report.html, which has {page.stat().st_size / 2**20:.1f} MiB",
        "Missing: report.json is cut off.",
        "Missing: effects.csv cannot be read.",
        "Withheld: without its raw rows its GPU is unknown.",
    ):
        assert said in text, said
    assert not (folder / "paper32/report.html").exists()
    assert not (folder / "probes.json").exists()
    reasons = {row[0]: row[1] for row in rows_of(text, "## Claims")}
    assert reasons["AMP alone trains ResNet-50 2.2 to 3.3 times as fast as fp32"] == (
        "layout32: 0 rows match, one is needed (effects.csv cannot be read)"
    )


def test_run_json_alone_is_a_publication(tmp_path):
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence/run.json").write_text(json.dumps({**RUN, "stages": []}))
    folder = published(tmp_path / "evidence", tmp_path / "out")
    assert set(tree(folder)) == {"README.md", "provenance.json"}
    text = (folder / "README.md").read_text()
    assert {row[4] for row in rows_of(text, "## Claims")} == {"not measured"}
    assert "No study is in the evidence." in text


@pytest.mark.parametrize(
    "text",
    ["no markers\n", MARKED.replace(":end", ":stop"), MARKED.replace("old", "<!-- gpu-results:begin -->"), MARKED * 2],
)
def test_a_readme_without_a_place_is_refused_before_anything_is_written(text, tmp_path, capsys):
    write_rest(tmp_path / "evidence")
    (tmp_path / "README.md").write_text(text)
    line = refused(
        capsys, tmp_path / "evidence", "--results", tmp_path / "out", "--readme", tmp_path / "README.md"
    )  # fmt: skip
    assert "<!-- gpu-results:begin -->" in line
    assert (tmp_path / "README.md").read_text() == text
    assert not (tmp_path / "out").exists()


def test_the_projects_readme_has_the_markers():
    text = (ROOT / "README.md").read_text()
    changed = publish.refreshed(text, "a section", "README.md")
    assert "<!-- gpu-results:begin -->\na section\n<!-- gpu-results:end -->" in changed


def test_without_options_the_projects_results_and_readme_are_meant(gpu_evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "experiments" / "results")
    monkeypatch.setattr(publish, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(MARKED)
    assert publish.main([str(gpu_evidence)]) == 0
    assert (tmp_path / "experiments/results" / FOLDER / "provenance.json").is_file()
    assert f"(experiments/results/{FOLDER}/README.md)" in (tmp_path / "README.md").read_text()


def test_hostile_text_stays_in_its_cell(tmp_path):
    stage = {"stage": "a|b", "status": "failed", "seconds": 1, "detail": "<script>x</script>\n| `c`"}
    write_rest(tmp_path / "evidence", {**RUN, "stages": [stage]})
    text = (published(tmp_path / "evidence", tmp_path / "out") / "README.md").read_text()
    (row,) = rows_of(text, "## Stages")
    assert row == ["a\0b", "failed", "1.0", r"\<script>x\</script> \0 \`c\`".replace(r"\0", "\0")]


def test_the_documented_command(gpu_evidence, tmp_path):
    parts = pack(gpu_evidence, tmp_path / "parts", parts=2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "experiments/gpu/publish.py", *map(str, parts[::-1]), "--results", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert FOLDER in done.stdout
    assert (tmp_path / "out" / FOLDER / "README.md").is_file()
    done = subprocess.run(command[:2], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_folders_of_the_host_are_not_published(tmp_path):
    root = tmp_path / "evidence"
    write_rest(root)
    host = "/somewhere/on-the_host/v1.2/"
    (root / "smoke.txt").write_text(
        f"generated xml file: {host}smoke.xml\ntests/core/test_a.py PASSED, see a://b/c/d\nsqlite:///{host}a.db: gone\n"
    )
    (root / "doctor.json").write_text(json.dumps({"checks": [{"name": "data", "detail": f"{host}data: empty"}]}))
    run = json.loads((root / "run.json").read_text())
    (root / "run.json").write_text(json.dumps({**run, "argv": ["run.py", "--out", f"{host}out"]}))
    folder = published(root, tmp_path / "out")
    assert (folder / "smoke.txt").read_text() == (
        "generated xml file: smoke.xml\ntests/core/test_a.py PASSED, see a://b/c/d\nsqlite:///a.db: gone\n"
    )
    told = json.loads((folder / "provenance.json").read_text())
    assert told["doctor"]["checks"][0]["detail"] == "data: empty" and told["run"]["argv"][-1] == "out"
    assert not [path for path in folder.rglob("*") if path.is_file() and "somewhere" in path.read_text()]

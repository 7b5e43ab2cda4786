"""The publication's pages in Markdown: its README, and the part of the project's README that quotes it.

Every number here comes from the evidence: nothing is computed but formats, and the figures of claims.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from claims import Finding
from evidence import Effect, Evidence, Study
from formats import escaped, number, ours, published, spread, table

from pipeline.analysis.pooling import ALL
from pipeline.analysis.report.headlines import VERDICT_WORDS

REHEARSAL = "Rehearsal on a CPU: no figure here is a GPU's"
BEGIN, END = "<!-- gpu-results:begin -->", "<!-- gpu-results:end -->"
RESPONSES = {
    "train_seconds": "time ×",
    "images_per_second": "rate ×",
    "gpu_peak_allocated_mib": "memory ×",
    "gpu_joules": "joules ×",
}
_HEADLINES = ("main", "combined", "synergy")


@dataclass(frozen=True)
class Smoke:
    """Counts of the device tests, from their JUnit file, and how many lines of their output are published."""

    tests: int
    failed: int
    skipped: int
    lines: int = 0
    of_lines: int = 0


@dataclass(frozen=True)
class Publication:
    """What is published.

    Attributes:
        evidence: What came back.
        findings: The claims with our figures.
        probes: probes.json; None without one.
        bench: bench.json; None without one.
        smoke: The counts of the device tests; None without them.
        left_out: What is not published, and why.
        files: The files beside README.md and provenance.json.
    """

    evidence: Evidence
    findings: Sequence[Finding]
    probes: Any = None
    bench: Any = None
    smoke: Smoke | None = None
    left_out: Sequence[str] = ()
    files: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The GPU and the day."""
        run = self.evidence.run
        return f"{run.gpu if run.device == 'cuda' else 'CPU'}, {run.began:%Y-%m-%d}"


def readme(made: Publication) -> str:
    """Writes the publication's README."""
    rehearsal = made.evidence.run.device == "cpu"
    lines = [REHEARSAL, ""] if rehearsal else []
    lines += [f"# {escaped(made.title)}", ""]
    lines += [*_what_ran(made), "", *_stages(made), "", *_claims(made), ""]
    lines += ["## Effects", "", *_legend()]
    for study in made.evidence.studies.values():
        lines += ["", *_study(study, made.files)]
    if not made.evidence.studies:
        lines += ["", "No study is in the evidence."]
    lines += ["", *_others(made), "", *_provenance(made)]
    return "\n".join(lines) + "\n"


def _what_ran(made: Publication) -> list[str]:
    run = made.evidence.run
    known: dict[str, set[str]] = {}
    for study in made.evidence.studies.values():
        for name, values in study.report.get("provenance", {}).items():
            known.setdefault(name, set()).update(str(value) for value in values)
    facts = [
        ("GPU", run.gpu or "none"),
        ("driver", ", ".join(sorted(known.get("gpu_driver", ()))) or "not recorded"),
        ("torch", run.torch or "not recorded"),
        ("Python", run.python or "not recorded"),
        ("commit", (run.commit or "not recorded") + (", with changes that are not committed" if run.dirty else "")),
        ("began", f"{run.began:%Y-%m-%d %H:%M:%S %Z}"),
        ("took", f"{run.seconds:.0f} s of a budget of {run.budget:.0f} s"),
    ]
    return [*table(["what", "which"], [(name, escaped(value)) for name, value in facts])]


def _stages(made: Publication) -> list[str]:
    rows = [
        (escaped(s.stage), escaped(s.status), f"{s.seconds:.1f}", escaped(s.detail)) for s in made.evidence.run.stages
    ]
    if not rows:
        return ["## Stages", "", "run.json names no stage."]
    return ["## Stages", "", *table(["stage", "status", "seconds", "detail"], rows, right=[2])]


def _claims(made: Publication) -> list[str]:
    rows = []
    for found in made.findings:
        claim = found.claim
        figure = ours(found.ours, claim.unit) if found.ours else escaped(found.why)
        rows.append([escaped(claim.sentence), figure, escaped(published(claim)), escaped(claim.source), found.verdict])
    return [
        "## Claims",
        "",
        "Ours: estimate, 95 % interval, blocks. A ratio of times below 1 and a ratio of rates above 1 is a gain. A "
        "range agrees if our whole interval lies in it, differs if our whole interval lies outside, and is undecided "
        "otherwise (without an interval the estimate decides). A claim that something pays, costs or has no effect "
        "agrees if that is our verdict, which is corrected for all effects of its kind.",
        "",
        *table(["claim", "ours", "public", "source", "verdict"], rows),
    ]


def _legend() -> list[str]:
    return [
        "On over off, averaged over the settings of the other techniques (main); all on over all off (combined); "
        "combined over the product of the single effects (synergy). 95 % intervals in brackets; the verdict is "
        "corrected for all effects of a kind."
    ]


def _study(study: Study, files: Sequence[str]) -> list[str]:
    lines = [f"### {study.name}", ""]
    if study.withheld:
        return [*lines, f"Withheld: {escaped(study.withheld)}."]
    if study.runs is not None:
        outcomes = study.runs.runs["outcome"].value_counts()
        counts = ", ".join(f"{count} {escaped(name)}" for name, count in sorted(outcomes.items()))
        blocks = study.runs.runs["block"].nunique()
        tainted = int(study.runs.runs["tainted"].ne("").sum())
        lines.append(
            f"{blocks} block{'' if blocks == 1 else 's'}, rows: {counts}"
            + (f" ({tainted} tainted)" if tainted else "")
            + (f", and {len(study.runs.sentinels)} sentinel baselines" if len(study.runs.sentinels) else "")
            + "."
        )
    lines += [f"Missing: {escaped(problem)}." for problem in study.problems]
    lines += ["", *(_effects(study.effects) or ["No effect has an estimate."])]
    trust = study.report.get("trust") or {}
    cautions = [*study.report.get("notes", ()), *trust.get("alarms", ())]
    lines += ["", *(f"- {escaped(caution)}" for caution in cautions)] if cautions else []
    links = [f"[{name}]({name})" for name in files if name.startswith(f"{study.name}/")]
    return [*lines, "", f"Files: {', '.join(links) or 'none'}."]


def _effects(effects: Sequence[Effect]) -> list[str]:
    rows: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for effect in effects:
        if effect.kind in _HEADLINES and effect.response in RESPONSES and effect.estimate is not None:
            key = (effect.model, effect.dataset, effect.term, effect.kind)
            text = f"{number(effect.estimate, 'ratio')}{spread(effect.low, effect.high, 'ratio')}"
            word = VERDICT_WORDS.get(effect.verdict, effect.verdict)
            rows.setdefault(key, {})[effect.response] = f"{text} {escaped(word)}"
    if not rows:
        return []
    order = {key: (ALL not in key[:2], *key[:2], _HEADLINES.index(key[3])) for key in rows}
    return table(
        ["model", "data set", "effect", *RESPONSES.values()],
        [
            [*map(escaped, key[:2]), escaped(f"{key[2]} ({key[3]})"), *(rows[key].get(r, "–") for r in RESPONSES)]
            for key in sorted(rows, key=order.__getitem__)
        ],
    )


def _others(made: Publication) -> list[str]:
    run = made.evidence.run
    lines = ["## Tests on the device", ""]
    if made.smoke:
        passed = made.smoke.tests - made.smoke.failed - made.smoke.skipped
        lines.append(f"{passed} passed, {made.smoke.failed} failed, {made.smoke.skipped} skipped.")
        if made.smoke.of_lines:
            lines.append(f"`smoke.txt` has the last {made.smoke.lines} of {made.smoke.of_lines} lines of their output.")
    else:
        lines.append(f"None: {escaped(run.why_absent('smoke'))}.")
    lines += ["", "## Probes", ""]
    figures = list(_figures(made.probes)) if isinstance(made.probes, dict) else []
    if figures:
        lines += [*table(["probe", "figure", "value"], figures, right=[2]), "", "Files: `probes.json`."]
    else:
        lines.append(f"None: {escaped(run.why_absent('probes'))}.")
    lines += ["", "## Benchmark", ""]
    rows = _races(made.bench)
    if rows:
        lines += [*table(["model", "figure", "value"], rows), "", "Files: `bench/`."]
    else:
        lines.append(f"None: {escaped(run.why_absent('bench'))}.")
    return lines


def _figures(probes: dict[str, Any], above: str = "") -> Iterable[tuple[str, str, str]]:
    """Flattens the probes: every figure that is a number, a truth value or a short text."""
    for name, value in probes.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{above}.{name}" if above else str(name))
        elif isinstance(value, bool) or value is None or isinstance(value, str):
            yield escaped(above), escaped(name), escaped(str(value)[:120])
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield escaped(above), escaped(name), f"{value:.6g}"
        else:
            yield escaped(above), escaped(name), "in `probes.json`"


def _races(bench: Any) -> list[list[str]]:
    rows = []
    for row in bench.get("rows", ()) if isinstance(bench, dict) else ():
        if isinstance(row, dict) and isinstance(row.get("ratio"), (int, float)):
            interval = spread(row.get("low"), row.get("high"), "ratio")
            figure = f"{number(row['ratio'], 'ratio')}{interval} {escaped(row.get('unit', ''))}"
            rows.append([escaped(row.get("model", "")), escaped(row.get("name", "")), figure])
    return rows


def _provenance(made: Publication) -> list[str]:
    absent = [*made.left_out, *made.evidence.problems]
    lines = ["## Where this comes from", ""]
    lines.append(
        "Written by `experiments/gpu/publish.py` from what `experiments/gpu/run.py` packed. `provenance.json` has "
        "run.json, the doctor's checks, the versions that each study recorded, and size and SHA-256 of every file of "
        "the evidence, the tracking store and the journal included."
    )
    return [*lines, "", "Not published:", "", *(f"- {escaped(line)}" for line in absent)] if absent else lines


def project_section(made: Publication, link: str) -> str:
    """Writes what the project's README says of the publication, without the markers."""
    run = made.evidence.run
    measured = [found for found in made.findings if found.ours and found.claim.rule != "none"]
    counts = {word: sum(f.verdict == word for f in made.findings) for word in ("agrees", "differs", "undecided")}
    lines = [
        f"Measured on one {escaped(run.gpu)} on {run.began:%Y-%m-%d} with torch {escaped(run.torch)}, "
        f"in {run.seconds:.0f} s: of {len(made.findings)} claims {len(measured)} have a public figure and ours, "
        f"{counts['agrees']} agree, {counts['differs']} differ, {counts['undecided']} are undecided. "
        f"[All of it]({link}/README.md), with sources, effects, raw rows and provenance.",
    ]
    rows = [
        (
            escaped(found.claim.sentence),
            ours(found.ours, found.claim.unit),
            escaped(published(found.claim)),
            found.verdict,
        )
        for found in measured
        if found.ours
    ]
    return "\n".join([*lines, "", *table(["claim", "ours", "public", "verdict"], rows)] if rows else lines)

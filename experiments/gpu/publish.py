"""Makes a publication of what a run on a GPU brought back.

Usage: python experiments/gpu/publish.py results.tar.gz.*

Writes RESULTS/GPU-DATE/ (README with the table of claims, provenance, reports, effects, raw rows) and refreshes the
results in the project's README. See experiments/gpu/README.md.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from claims import examine, load
from evidence import Evidence, Study, open_evidence
from pages import BEGIN, END, Publication, Smoke, project_section, readme

from pipeline.errors import AblateError, InputError, OutsideError, not_allowed

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
README = HERE.parent.parent / "README.md"
TAIL = 60  # lines of the device tests' output
MAX_PAGE = 2**20  # bytes of a report.html: it says nothing that the other files do not have
# not in an address, but that of a file, nor behind a relative path's first part
_FOLDERS = re.compile(r"(?:(?<=sqlite:///)|(?<=file://)|(?<![\w.:/-]))/(?:[\w.+-]+/)+")
PUBLISHED = ("report.md", "effects.csv", "runs.csv", "speed.json")


def folder_name(evidence: Evidence) -> str:
    """Names the publication's folder: the GPU and the day, or that it is a rehearsal."""
    run = evidence.run
    gpu = re.sub(r"[^a-z0-9]+", "-", run.gpu.lower()).strip("-") if run.device == "cuda" else "cpu-rehearsal"
    return f"{gpu}-{run.began:%Y-%m-%d}"


def collect(evidence: Evidence) -> tuple[Publication, dict[str, bytes]]:
    """Makes the publication and its files, by their path in its folder. The same evidence gives the same bytes."""
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    for study in evidence.studies.values():
        _study_files(study, files, left_out)
    probes, doctor = (evidence.json(name) for name in ("probes.json", "doctor.json"))
    bench = _benchmark(evidence)
    smoke = _smoke(evidence, files)
    if bench is not None and evidence.run.device == "cuda" and not _on_gpu(bench):
        left_out.append("the benchmark: its cases did not run on a GPU")
        bench = None
    if probes is not None:
        files["probes.json"] = (evidence.root / "probes.json").read_bytes()
    for path in sorted((evidence.root / "bench").rglob("bench.*")) if bench is not None else ():
        files[path.relative_to(evidence.root).as_posix()] = path.read_bytes()
    if doctor is None:
        left_out.append("the doctor's checks: doctor.json is not there")
    findings = [examine(claim, evidence.run, evidence.studies, probes) for claim in load(HERE / "claims.yaml")]
    made = Publication(evidence, findings, probes, bench, smoke, left_out, sorted(files))
    versions = {name: study.report.get("provenance", {}) for name, study in evidence.studies.items()}
    told = without_folders({"run": evidence.raw, "doctor": doctor, "studies": versions})
    provenance = {**told, "evidence": evidence.digests()}
    files["provenance.json"] = (json.dumps(provenance, indent=1, ensure_ascii=False) + "\n").encode()
    files["README.md"] = without_folders(readme(made)).encode()
    return made, files


def without_folders(value: Any) -> Any:
    """Takes the folders out of absolute paths, in a text or in all texts of a document: they are the host's affair."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, dict):
        return {key: without_folders(found) for key, found in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(found) for found in value]
    return value


def _study_files(study: Study, files: dict[str, bytes], left_out: list[str]) -> None:
    """Takes a study's files, or says why not."""
    if study.withheld:
        left_out.append(f"study {study.name}: {study.withheld}")
        return
    for name in PUBLISHED:
        if (study.folder / name).is_file():
            files[f"{study.name}/{name}"] = (study.folder / name).read_bytes()
    page = study.folder / "report.html"
    if page.is_file() and page.stat().st_size < MAX_PAGE:
        files[f"{study.name}/report.html"] = page.read_bytes()
    elif page.is_file():
        left_out.append(f"{study.name}/report.html, which has {page.stat().st_size / MAX_PAGE:.1f} MiB")


def _smoke(evidence: Evidence, files: dict[str, bytes]) -> Smoke | None:
    """Counts the device tests and takes the end of their output."""
    lines: list[str] = []
    if (evidence.root / "smoke.txt").is_file():
        lines = (evidence.root / "smoke.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        files["smoke.txt"] = without_folders("\n".join(lines[-TAIL:]) + "\n").encode()
    if not (evidence.root / "smoke.xml").is_file():
        return None
    names = ("tests", "failures", "errors", "skipped")
    try:
        suites = list(ElementTree.parse(evidence.root / "smoke.xml").getroot().iter("testsuite"))
        counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in names}
    except (ElementTree.ParseError, ValueError):
        evidence.problems.append("smoke.xml is there, but cannot be read")
        return None
    failed = counts["failures"] + counts["errors"]
    return Smoke(counts["tests"], failed, counts["skipped"], min(len(lines), TAIL), len(lines))


def _benchmark(evidence: Evidence) -> Any:
    """Puts the benchmarks of a run together: one for each model, in a folder of its own behind the first."""
    names = sorted(path.relative_to(evidence.root).as_posix() for path in evidence.root.glob("bench/**/bench.json"))
    found = [document for name in names if (document := evidence.json(name)) is not None]
    if not found or not all(isinstance(document, dict) for document in found):
        return found[0] if found else None
    return {key: [entry for document in found for entry in document.get(key) or ()] for key in ("rows", "cases")}


def _on_gpu(bench: Any) -> bool:
    """Says whether every race ran on a GPU: a benchmark falls back to no device, but it can be asked for the CPU."""
    cases = bench.get("cases") if isinstance(bench, dict) else None
    return (
        isinstance(cases, list)
        and bool(cases)
        and all(isinstance(c, dict) and c.get("device") == "cuda" for c in cases)
    )


def refreshed(text: str, section: str, name: str) -> str:
    """Puts the section between the markers of a README.

    Raises:
        InputError: The markers are not there once each, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"--readme: {name} has to have {BEGIN} and, after it, {END}, once each")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{section}\n{END}{rest.split(END)[1]}"


def _check_target(folder: Path, evidence: Evidence, replace: bool) -> None:
    """Refuses to write over another run's publication."""
    if not folder.exists() or replace:
        return
    try:
        there: Any = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["run"]["began"]
    except (OSError, ValueError, KeyError, TypeError):
        there = "unknown"
    if there != evidence.raw["began"]:
        began = evidence.raw["began"]
        raise InputError(
            f"--results: {folder} is of another run (began {there}, this one {began}); --replace writes over it"
        )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes beside the folder and swaps, so that the folder is never half of one run and half of another."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=folder.parent) as place:
        for name, content in files.items():
            path = Path(place, "new", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            folder.rename(Path(place, "old"))
        Path(place, "new").rename(folder)


def publish(packed: Sequence[Path], results: Path, readme_file: Path | None, replace: bool) -> list[str]:
    """Publishes the evidence; says what was written.

    Raises:
        InputError: The evidence is no evidence, the folder is another run's, the README has no place for it, or a
            rehearsal would land among the results.
    """
    with tempfile.TemporaryDirectory(prefix="publish-") as scratch:
        evidence = open_evidence(packed, Path(scratch))
        rehearsal = evidence.run.device == "cpu"
        target = results.resolve()
        if rehearsal and (target == RESULTS or RESULTS in target.parents):
            raise not_allowed("--results", str(results), "another folder: run.json says device cpu, a rehearsal")
        folder = target / folder_name(evidence)
        _check_target(folder, evidence, replace)
        made, files = collect(evidence)
        page = None
        if readme_file is not None and not rehearsal:  # before anything is written
            link = os.path.relpath(folder, readme_file.resolve().parent)
            section = project_section(made, Path(link).as_posix())
            page = refreshed(readme_file.read_text(encoding="utf-8"), section, readme_file.name)
        _write(folder, files)
        said = [f"written: {os.path.relpath(folder)}, {len(files)} files"]
        if page is not None and readme_file is not None:
            readme_file.write_text(page, encoding="utf-8")
            said.append(f"refreshed: {os.path.relpath(readme_file)}")
        elif readme_file is not None:
            said.append(f"{os.path.relpath(readme_file)} is left alone: a rehearsal on a CPU has no result for it")
        return said


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("packed", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the folder is made  [default: the project's experiments/results]",
)
@click.option(
    "--readme",
    "readme_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Refresh this README  [default: the project's, if --results is the project's too; else none]",
)
@click.option("--replace", is_flag=True, help="Write over another run's publication of the same GPU and day.")
def command(packed: tuple[Path, ...], results: Path | None, readme_file: Path | None, replace: bool) -> None:
    """Make a publication of PACKED.

    PACKED is the parts results.tar.gz.1, .2, ... in any order, a folder that holds them, or the unpacked folder.
    """
    results = results or RESULTS
    if readme_file is None and results.resolve() == RESULTS:
        readme_file = README
    for line in publish(packed, results, readme_file, replace):
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; one line on standard error and a code where it fails, as `ablate` does it."""
    try:
        try:
            command.main(arguments, prog_name="publish.py", standalone_mode=False)
        except OSError as error:
            raise OutsideError(f"{error.filename or 'disk'}: {error.strerror or error}") from None
    except (AblateError, click.ClickException) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"publish: {' '.join(text.split())}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The whole benchmark: which parts, in which order, and the document of their results."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.bench import entry
from pipeline.bench.cases import CONTENDERS, DEFAULT_MODEL, DEFAULT_MODELS, SELF, Case, case_of, missing, versions
from pipeline.bench.intervals import RatioRow, block_log, ratio_interval
from pipeline.bench.processes import FreshProcesses
from pipeline.design.spec import Device
from pipeline.errors import not_allowed
from pipeline.paths import write_atomically
from pipeline.tracking.provenance import host_provenance

OVER = {f"over_{name}": name for name in CONTENDERS if name != SELF}
PARTS = (*OVER, "gather_over_loader", "grid_overhead", "scaling")
BLOCKS = {DEFAULT_MODEL: 12}
OTHER_BLOCKS = 6
FEEDING_ROUNDS = 5
PLAN_SIZES = (10, 100, 1_000, 10_000, 100_000)
REPORT_SIZES = (10, 100, 1_000, 10_000)
GRID_RUNS = 24
RECORDS = 5_000


@dataclass(frozen=True)
class BenchOptions:
    """What the command line asked for.

    Attributes:
        models: raced models; the default model's rows have the contract's plain names.
        parts: of `PARTS`.
        blocks: fresh processes per model; None for the default.
        windows: optimizer steps of an epoch; None for the default.
        batch: images per step; None for each model's default.
        device: where it trains.
        grid_study: the study of `grid_overhead`.
        full: the report's cost at 100,000 cells, too.
        cores: of this machine.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    parts: tuple[str, ...] = PARTS
    blocks: int | None = None
    windows: int | None = None
    batch: int | None = None
    device: Device = "cpu"
    grid_study: str = "quickstart"
    full: bool = False
    cores: int = 1


@dataclass
class Results:
    """What has been measured so far.

    Attributes:
        rows: the contract's rows.
        cases: every raced case with its contenders' images per second and agreement.
        scaling: costs against size.
        absent: one line for each thing that could not be measured here, with what to do about it.
    """

    rows: list[RatioRow] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    scaling: dict[str, Any] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        provenance = {**host_provenance(), **{f"version.{name}": value for name, value in versions().items()}}
        provenance["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began))
        provenance["seconds"] = str(round(time.time() - self.began))
        return {
            "provenance": provenance,
            "rows": [row.document() for row in self.rows],
            "cases": self.cases,
            "scaling": self.scaling,
            "absent": self.absent,
        }


def parse_parts(text: str | None) -> tuple[str, ...]:
    """`--only`: names of `PARTS`, separated by commas.

    Raises:
        InputError: an unknown name.
    """
    if text is None:
        return PARTS
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in PARTS:
            raise not_allowed("--only", name, ", ".join(PARTS))
    return tuple(name for name in PARTS if name in names)


def run_suite(options: BenchOptions, note: Callable[[str], None], keep: Callable[[Results], None]) -> Results:
    """Runs the parts, one after the other.

    Args:
        options: what to run.
        note: takes a line of progress.
        keep: called after every part with what there is, so that an interrupted benchmark loses only its last part.

    Raises:
        AblateError: bad input, or a process failed.
    """
    cases = [case_of(model, options.device, options.cores, options.windows, options.batch) for model in options.models]
    results = Results()
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        log = Path(folder) / "processes.log"
        names = _contenders(options.parts, results)
        with FreshProcesses(log, preload=True) as processes:
            for case in cases if len(names) > 1 else ():
                blocks = options.blocks or BLOCKS.get(case.model, OTHER_BLOCKS)
                _race(case, names, blocks, processes, results, note)
                keep(results)
            if "gather_over_loader" in options.parts:
                _feeding(options.device, processes, results, note)
                keep(results)
        if "scaling" in options.parts:
            with FreshProcesses(log, preload=False) as processes:
                _scaling(options, processes, Path(folder), results, note)
            keep(results)
        if "grid_overhead" in options.parts:
            _grid_overhead(options, Path(folder), results, note)
            keep(results)
    return results


def _contenders(parts: Sequence[str], results: Results) -> tuple[str, ...]:
    """Ablate and the contenders that are wanted and installed."""
    wanted = [OVER[part] for part in parts if part in OVER]
    for name in wanted:
        line = missing(name)
        if line is not None:
            results.absent.append(f"over_{line}")
    return (SELF, *(name for name in wanted if missing(name) is None))


def _race(
    case: Case,
    names: tuple[str, ...],
    blocks: int,
    processes: FreshProcesses,
    results: Results,
    note: Callable[[str], None],
) -> None:
    """All blocks of one case; adds a row for each contender."""
    found: list[dict[str, list[float]]] = []
    difference: dict[str, float] = {}
    for block in range(blocks):
        note(f"{case.model}, batch {case.batch}: block {block + 1} of {blocks}")
        seconds, apart = processes.call(entry.block, case, names, block)
        found.append(seconds)
        difference = {name: max(value, difference.get(name, 0.0)) for name, value in apart.items()}
    for name in names[1:]:
        logs = [block_log(seconds[name], seconds[SELF]) for seconds in found]
        detail = {"model": case.model, "batch": case.batch, "blocks": blocks, "rounds": case.rounds}
        results.rows.append(RatioRow(f"over_{name}", *ratio_interval(logs), detail=detail))
    rates = {name: sorted(case.images / s for seconds in found for s in seconds[name]) for name in names}
    record: dict[str, Any] = case.document()
    record["images_per_second"] = {name: values[len(values) // 2] for name, values in rates.items()}
    record["seconds"] = [{name: [round(t, 6) for t in times] for name, times in block.items()} for block in found]
    record["weights_differ_by"] = difference
    flops = processes.call(entry.flops_per_image, case)
    record |= _use_of_device(case, record["images_per_second"][SELF], flops)
    results.cases.append(record)


def _use_of_device(case: Case, rate: float, flops: float | None) -> dict[str, float]:
    """FLOP/s of ablate's loop, and their share of the device's peak where that is known."""
    if flops is None:
        return {}
    found = {"flops_per_image": flops, "flops_per_second": flops * rate}
    if case.device == "cuda":
        from pipeline import nvml
        from pipeline.analysis.peak_flops import peak_flops

        gpus = nvml.gpus()
        peak = peak_flops(gpus[0].name, case.precision) if gpus else None
        if peak is not None:
            found["share_of_peak"] = flops * rate / peak
    return found


def _feeding(device: Device, processes: FreshProcesses, results: Results, note: Callable[[str], None]) -> None:
    """Images per second delivered, without augmentation and with the one of the paper's ResNet on CIFAR."""
    for augmentation in ("none", "crop_flip"):
        note(f"gather against loader, augmentation {augmentation}")
        rates = processes.call(entry.feeding, device, FEEDING_ROUNDS, augmentation)
        middle = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
        logs = [block_log([gather], [loader]) for gather, loader in zip(rates["gather"], rates["loader"], strict=True)]
        detail = {"augmentation": augmentation, **{f"{name}_images_per_second": rate for name, rate in middle.items()}}
        results.rows.append(RatioRow("gather_over_loader", *ratio_interval(logs), detail=detail))


def _scaling(
    options: BenchOptions, processes: FreshProcesses, folder: Path, results: Results, note: Callable[[str], None]
) -> None:
    """Costs of records, runs, plans and reports."""
    note("cost of a record, and of a run that trains nothing")
    scaling = results.scaling
    scaling["training_process_seconds_per_record"] = processes.call(entry.record_cost, RECORDS)
    place = folder / "orchestration"
    place.mkdir()
    scaling["orchestration"] = processes.call(entry.orchestration, GRID_RUNS, str(place))
    scaling["plan"] = []
    for cells in PLAN_SIZES:
        note(f"plan of {cells:,} cells")
        scaling["plan"].append(processes.call(entry.plan_cost, cells))
    scaling["report"] = []
    for cells in (*REPORT_SIZES, *((100_000,) if options.full else ())):
        note(f"report on {cells:,} cells")
        scaling["report"].append(processes.call(entry.report_cost, cells))


def _grid_overhead(options: BenchOptions, folder: Path, results: Results, note: Callable[[str], None]) -> None:
    """One grid call in an empty folder."""
    from pipeline.bench.grid_overhead import grid_cost

    note(f"ablate grid --study {options.grid_study}, all of it")
    place = folder / "grid"
    place.mkdir()
    cost = grid_cost(options.grid_study, options.device, place)
    detail = {
        "study": options.grid_study,
        "runs": cost.runs,
        "wall_seconds": cost.wall_seconds,
        "run_seconds": cost.run_seconds,
        "setup_seconds": cost.setup_seconds,
        "controller_memory_mib": cost.memory_mib,
    }
    results.rows.append(RatioRow("grid_overhead", cost.ratio, None, None, detail=detail))


def write_bench(results: Results, out: Path) -> None:
    """Writes bench.json and bench.md into a folder, each whole or not at all."""
    from pipeline.bench.text import bench_markdown

    out.mkdir(parents=True, exist_ok=True)
    document = results.document()
    contents = {"bench.json": json.dumps(document, indent=1) + "\n", "bench.md": bench_markdown(document)}
    for name, content in contents.items():
        write_atomically(out / name, content)

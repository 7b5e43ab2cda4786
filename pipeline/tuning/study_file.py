"""Tuned recipes as study files, which `ablate grid --study FILE` takes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.design import plan, study, yaml_core
from pipeline.design.spec import Device, Recipe
from pipeline.design.study import Study
from pipeline.errors import AblateError, OutsideError, not_allowed
from pipeline.files import reading, writing
from pipeline.shown import printable

TUNED_DIR = Path("experiments", "tuned")
_MADE = "# made by `ablate tune`, Optuna study "


def check_free(name: str) -> None:
    """Looks at what is in the place of a study file: one that `ablate tune` did not make is left alone.

    Args:
        name: of the study and its file.

    Raises:
        InputError: there is something else.
    """
    path = TUNED_DIR / f"{name}.yaml"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISREG(path.lstat().st_mode):
            with reading(path) as stream:
                if stream.read(len(_MADE)) == _MADE.encode():
                    return
        raise not_allowed("--name", name, f"another name ({path} is there, and `ablate tune` has not made it)")


def write_study_file(
    name: str, model: str, dataset: str, recipe: Recipe, base: Study, device: Device, notes: list[str]
) -> Path:
    """Writes the study file of a tuned recipe: one model, one data set, the techniques of the study that was tuned.

    Techniques that the recipe has on already, or that cannot be put on top of it, are left out. The file is read
    again and planned before it takes its place.

    Args:
        name: of the study and its file.
        model: the tuned model.
        dataset: the data set that it was tuned on.
        recipe: its recommended recipe.
        base: the study that the baseline came from.
        device: where the file is to be used.
        notes: lines for the head of the file.

    Raises:
        InputError: something that is not ours has its name.
        OutsideError: it cannot be written.
    """
    defaults = Recipe().model_dump(mode="json")
    fields = {name: value for name, value in recipe.model_dump(mode="json").items() if value != defaults[name]}
    fields["batch_size"], fields["accumulation_steps"] = recipe.batch_size, recipe.accumulation_steps
    content: dict[str, Any] = {
        "name": name,
        "title": f"{model} on {dataset}, tuned",
        "models": {model: {}},
        "datasets": [dataset],
        "techniques": {n: list(levels) for n, levels in base.techniques.items() if _fits(n, levels, recipe, device)},
        "seeds": base.seeds,
        "base_seed": base.base_seed,
        "recipe": fields,
    }
    check_free(name)
    head = "".join(f"# {printable(' '.join(note.split()))}\n" for note in notes)
    text = f"{_MADE}{name}\n{head}{yaml_core.dump(content)}"
    path = TUNED_DIR / f"{name}.yaml"
    temporary = path.with_name(f".{name}.{os.getpid()}.yaml")
    try:
        TUNED_DIR.mkdir(parents=True, exist_ok=True)
        with writing(temporary) as stream:
            stream.write(text.encode())
        plan.build_plan(study.load_study(str(temporary)), device)
        temporary.replace(path)
    except OSError as error:
        raise OutsideError(f"study file {path}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _fits(name: str, levels: tuple[str, ...], recipe: Recipe, device: Device) -> bool:
    from pipeline.design import techniques

    technique = techniques.get(name)
    try:
        for level in levels or (technique.default[device],):
            technique.apply(recipe, level)
    except AblateError:
        return False
    return device in technique.devices


def overrides(model: str, dataset: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A study's override that freezes tuned fields for all cells of one (model, data set)."""
    return {"model": model, "dataset": dataset, "recipe": dict(fields)}

"""What studies are called: which names are allowed, and the name of a grid that the command line alone makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.design import catalog, techniques
from pipeline.design.spec import content_digest
from pipeline.design.study import Study, known_studies
from pipeline.errors import not_allowed

MOST_CHARACTERS = 60  # of a name made here; a longer one keeps the first of each list
_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RULE = "1 to 100 of letters, digits and . _ -, a letter or digit first, no .yaml at the end"


def check_name(name: str, base: Study) -> None:
    """Checks the name that `--name` gives a study.

    Args:
        name: the name.
        base: the study whose file is run; it may keep its own.

    Raises:
        InputError: it is no name, or that of another study file, whose results would be mixed with these.
    """
    if not _ALLOWED.fullmatch(name) or name.endswith((".yaml", ".yml")):
        raise not_allowed("--name", name, _RULE)
    if name != base.name and name in known_studies():
        raise not_allowed("--name", name, f"a name that no study file has (ablate grid --study {name} runs that one)")


def is_whole(base: Study, chosen: Study, rest: Mapping[str, Any]) -> bool:
    """Whether a call asks what the study file asks, on however many blocks.

    Args:
        base: the study as its file says.
        chosen: the study as the command line changes it.
        rest: what else makes its cells others, by the name of the option.
    """
    same = (
        set(chosen.models) == set(base.models),
        set(chosen.datasets) == set(base.datasets),
        list(chosen.techniques.items()) == list(base.techniques.items()),
        chosen.design == base.design,
    )
    return all(same) and not rest


def name_of_call(base: Study, chosen: Study, rest: Mapping[str, Any]) -> str:
    """Names a study after what the command line chose: the same cells have the same name in every call.

    It has the study file's name in front as far as cells have that one's recipes, then models, data sets and techniques
    where they are not the file's, and six digits of a digest where that is not all.

    Args:
        base: the study as its file says.
        chosen: the study as the command line changes it.
        rest: what else makes its cells others, by the name of the option.
    """
    own = all(chosen.is_own(model, dataset) for model in chosen.models for dataset in chosen.datasets)
    models = sorted(chosen.models, key=lambda name: name.removeprefix("timm:"))
    datasets = sorted(chosen.datasets)
    groups = []
    if own or set(models) != set(base.models):
        groups.append([_shown(name.removeprefix("timm:")) for name in models])
    if own or set(datasets) != set(base.datasets):
        groups.append([_shown(_last_part(name)) for name in datasets])
    if own or list(chosen.techniques) != list(base.techniques):
        groups.append(list(chosen.techniques) or ["baseline"])
    if rest.get("tuned"):
        groups.append(["tuned"])
    levels = {name: values for name, values in chosen.techniques.items() if values != base.techniques.get(name, ())}
    untold = {
        **{option: value for option, value in rest.items() if option != "tuned"},
        **({"levels": levels} if levels else {}),
        **({"design": chosen.design} if chosen.design != base.design else {}),
        **({"names": [models, datasets]} if not all(map(_is_told, [*models, *datasets])) else {}),
    }
    front = [] if own else [base.name]
    name = "-".join([*front, *(part for group in groups for part in group)])
    if len(name) > MOST_CHARACTERS:
        untold["all"] = [models, datasets, list(chosen.techniques)]
        name = "-".join([*front, *map(_cut, groups)])
    if name.endswith((".yaml", ".yml")):  # which is how a file is told from a name
        untold["end"] = name
    return f"{name}-{content_digest(untold)[:6]}" if untold else name


def _shown(text: str) -> str:
    """A part of a name: what a file and an experiment may be called."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._")[:40] or "data"


def _last_part(dataset: str) -> str:
    return dataset.removeprefix(catalog.IMAGEFOLDER).rstrip("/").rpartition("/")[2]


def _is_told(name: str) -> bool:
    """Whether a model's or data set's part of a name says which one it is."""
    if name in catalog.MODELS or name in catalog.DATASETS:
        return True
    taken = {*catalog.MODELS, *catalog.DATASETS, *techniques.TECHNIQUES, "baseline"}
    prefix = "timm:" if name.startswith("timm:") else catalog.IMAGEFOLDER
    part = _shown(name.removeprefix(prefix))
    return name == prefix + part and part not in taken


def _cut(group: list[str]) -> str:
    return group[0][:20] if len(group) == 1 else f"{group[0][:20]}-{len(group) - 1}more"

"""Study files: what extends what, variants, the studies that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.design.plan import build_plan
from pipeline.design.spec import Recipe
from pipeline.design.study import load_study, parse_settings, replace, validated
from pipeline.errors import InputError


def _study(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_a_study_extends_another(tmp_path: Path) -> None:
    path = _study(tmp_path, "extends: quickstart\ndatasets: [digits]\noverrides: []\nseeds: 2\n")
    study, base = load_study(str(path)), load_study("quickstart")
    assert study.name == "mine"
    assert study.models == base.models
    assert study.techniques == base.techniques
    assert (study.datasets, study.seeds) == (("digits",), 2)


@pytest.mark.parametrize("base", ["nowhere", "[1]", "{a: b}"])
def test_a_study_that_extends_nothing_known_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(InputError):
        load_study(str(_study(tmp_path, f"extends: {base}\nmodels: [test_resnet]\ndatasets: [digits]\n")))


def test_extending_oneself_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    _study(tmp_path / "experiments", "extends: loop\n", "loop")
    with pytest.raises(InputError, match="at most four"):
        load_study("loop")


def test_variants_are_crossed_with_every_cell(tmp_path: Path) -> None:
    text = "extends: quickstart\nmodels: [test_resnet]\ndatasets: [digits]\noverrides: []\n"
    text += "techniques: [ga]\nvariants: {batch_size: [16, 32], num_threads: [1, 2]}\n"
    plan = build_plan(load_study(str(_study(tmp_path, text))), "cpu")
    seen = {(r.spec.recipe.batch_size, r.spec.recipe.num_threads, r.spec.label) for r in plan.runs}
    assert len(plan.runs) == len(seen) == 2 * 2 * 2


def test_variants_of_an_unknown_field_are_refused(tmp_path: Path) -> None:
    text = "extends: quickstart\nvariants: {batch: [16]}\n"
    with pytest.raises(InputError, match=r"variants: field: 'batch' is not allowed"):
        load_study(str(_study(tmp_path, text)))


@pytest.mark.parametrize("name", ["paper", "paper-q1", "paper-q2", "paper-q3", "paper-c1", "paper-c2", "heldout"])
def test_every_published_study_makes_a_plan(name: str) -> None:
    plan = build_plan(load_study(name), "cpu")
    assert len({run.spec.digest for run in plan.runs}) == len(plan.runs)
    assert {run.block for run in plan.runs} == set(range(plan.study.seeds))


def test_a_title_is_that_of_the_file_alone(tmp_path: Path) -> None:
    assert load_study("quickstart").title
    assert load_study(str(_study(tmp_path, "extends: quickstart\n"))).title == "", "it says what the base is about"
    assert load_study(str(_study(tmp_path, "extends: quickstart\ntitle: Mine\n"))).title == "Mine"


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    path = _study(tmp_path, "extends: quickstart\naccuracy_margin_points: 0.5\n")
    with pytest.raises(InputError, match=r"mine.yaml: field: 'accuracy_margin_points' is not allowed; allowed: "):
        load_study(str(path))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs=3", 3),
        ("learning_rate=1e-3", 1e-3),
        ("compile=off", "off"),
        ("pin_memory=on", True),
        ("clip_norm=null", None),
        ("precision=bf16", "bf16"),
    ],
)
def test_settings_are_yaml_scalars(setting: str, value: object) -> None:
    name = setting.partition("=")[0]
    fields = parse_settings([setting])
    assert getattr(validated(Recipe, fields, "here"), name) == value and type(fields[name]) in (type(value), str)


@pytest.mark.parametrize("setting", ["epochs", "epoch=3", "epochs=[", "epochs=0", "epochs=2.5"])
def test_settings_that_are_refused(setting: str) -> None:
    with pytest.raises(InputError, match=r"--set.* not allowed; allowed: "):
        parse_settings([setting])


def test_replaced_fields_are_validated() -> None:
    base = load_study("quickstart")
    assert replace(base, seeds=7).seeds == 7 and replace(base) == base
    with pytest.raises(InputError, match="command line: seeds: 0 is not allowed"):
        replace(base, seeds=0)

"""Study files: what extends what, variants, the studies that are shipped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.design.plan import build_plan
from pipeline.design.spec import Recipe
from pipeline.design.study import load_study, parse_settings, replace, validated
from pipeline.errors import InputError

FIELDS = ("batch_size", "epochs", "accumulation_steps")


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
        ("batch_size=0x40", 64),
        ("learning_rate=.5", 0.5),
        ("weight_decay=-0.0", 0.0),
        ("weights=runs/a #1.pt", "runs/a #1.pt"),
    ],
)
def test_settings_are_yaml_scalars(setting: str, value: object) -> None:
    name = setting.partition("=")[0]
    fields = parse_settings([setting])
    assert getattr(validated(Recipe, fields, "here"), name) == value and type(fields[name]) in (type(value), str)


@pytest.mark.parametrize(
    "setting",
    [
        *(
            "epochs",
            "epoch=3",
            "epochs=[",
            "epochs=0",
            "epochs=2.5",
            "epochs=",
            "epochs= ",
            "epochs=true",
            "epochs=１２",
        ),
        *("batch_size=064", "epochs=010", "max_train_samples=01000"),
        *("batch_size=1:30", "batch_size=1_000", "batch_size=1e3", "batch_size=64px", "batch_size='64'", "epochs=yes"),
        *(
            f"learning_rate={value}"
            for value in ("yes", "true", "on", ".nan", "nan", "inf", "1e400", "9" * 5000, "1_0")
        ),
        *("clip_norm=on", "momentum=no", "weight_decay=true", "num_workers=1099511627776", "num_threads=100000"),
        *("batch_size=99999999", "epochs=0x" + "f" * 5000, "compile=false"),
    ],
)
def test_settings_that_are_refused(setting: str) -> None:
    with pytest.raises(InputError, match=r"--set.* not allowed; allowed: "):
        parse_settings([setting])


def test_replaced_fields_are_validated() -> None:
    base = load_study("quickstart")
    assert replace(base, seeds=7).seeds == 7 and replace(base) == base
    with pytest.raises(InputError, match="command line: seeds: 0 is not allowed"):
        replace(base, seeds=0)


HEAD = "models: [test_resnet]\ndatasets: [digits]\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *((f"seeds: {value}", "seeds") for value in ("yes", "true", "'3'", "1e1", "1:30", "2.0", "null")),
        ("seeds: .nan", "line 3: '.nan', which is not a finite number"),
        *((f"recipe: {{epochs: {value}}}", "epochs") for value in ("true", "on", "1:30", "'3'", "1099511627776")),
        *((f"recipe: {{weight_decay: {value}}}", "weight_decay") for value in ("true", "on", "'1'")),
        ("sentinels: 2020-01-01", "sentinels"),
        *((f"techniques: {{pm: {value}}}", "pm") for value in ("off", "no", "yes", "false")),
        *(
            (f"techniques: {{ga: {value}}}", "ga")
            for value in ("'04'", "1e1", "'１２'", "'1_0'", "' 4'", "99999999999")
        ),
        ("techniques: [ga, ga]", "techniques: .* a list without duplicates"),
        ("<<: {seeds: 3}", "'<<' is not allowed"),
        (f"title: {'x' * 2000}", "title"),
        ("variants: {epochs: []}", "variants"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        build_plan(load_study(str(_study(tmp_path, HEAD + text + "\n"))), "cpu")
    assert "\n" not in str(caught.value)


def test_words_are_words_and_numbers_decimal(tmp_path: Path) -> None:
    text = "base_seed: 0o145\nrecipe: {batch_size: 0x20, learning_rate: 1e-3, compile: off, pin_memory: on}\n"
    study = load_study(str(_study(tmp_path, HEAD + text + "techniques: {pm: on, ga: 4}\n")))
    recipe = study.recipe_for("test_resnet", "digits")
    assert study.base_seed == 101 and study.techniques == {"pm": ("on",), "ga": ("4",)}
    assert (recipe.batch_size, recipe.learning_rate, recipe.compile, recipe.pin_memory) == (32, 1e-3, "off", True)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "variants: {" + ", ".join(f"{f}: [{', '.join(map(str, range(1, 3001)))}]" for f in FIELDS) + "}",
            "more than 1000000 cells",
        ),
        ("techniques: {" + ", ".join(f"t{i}: 1" for i in range(3000)) + "}", "techniques"),
        ("title: " + "x" * 1_000_000, "too large"),
        ("recipe: {num_workers: 1099511627776}", "num_workers"),
    ],
)
def test_a_study_bomb_is_refused_before_it_goes_off(tmp_path: Path, text: str, problem: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=problem) as caught:
        load_study(str(_study(tmp_path, HEAD + text + "\n")))
    assert time.monotonic() - began < 10 and len(str(caught.value)) < 2000


@pytest.mark.timeout(20)
def test_a_million_models_and_data_sets_are_refused(tmp_path: Path) -> None:
    for text in (
        "models: {" + ", ".join(f"m{i}: " for i in range(3000)) + "}\ndatasets: [digits]\n",
        "models: [test_resnet]\ndatasets: [" + ", ".join(f"imagefolder:{i}" for i in range(3000)) + "]\n",
    ):
        with pytest.raises(InputError, match=r"models|datasets"):
            load_study(str(_study(tmp_path, text)))
    with pytest.raises(InputError, match="command line: overrides"):
        replace(load_study("quickstart"), overrides=[{"recipe": {}}] * 20_000)

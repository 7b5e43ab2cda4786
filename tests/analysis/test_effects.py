"""Effects of planted studies: definitions, pooling, missing cells, levels, fractions, foreign stores."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.effects import COLUMNS, estimate
from pipeline.analysis.frame import tidy
from pipeline.design.factorial import fractional
from pipeline.tracking.study_data import StudyData
from tests.support.planted import TRUTH, effect_of, planted


def rows(effects, **where):
    table = pd.concat([effects.table, effects.details.drop(columns="blocks")], axis=1)
    where = {"response": "train_seconds", **where}
    for column, value in where.items():
        table = table[table[column].eq(value)]
    return table


def one(effects, **where):
    found = rows(effects, **where)
    assert len(found) == 1, found
    return found.iloc[0]


def without(study, mask):
    return replace(study, runs=study.runs[~mask].reset_index(drop=True))


def test_the_table_has_exactly_the_columns_of_the_contract():
    effects = estimate(planted())
    assert list(effects.table.columns) == COLUMNS
    assert set(effects.table["unit"]) == {"ratio", "points"}
    assert set(effects.table["kind"]) == {"main", "interaction", "simple", "combined", "synergy"}


def test_a_noiseless_study_gives_the_planted_truth_by_the_definitions_of_the_contract():
    effects = estimate(planted(noise=0.0, blocks=2))

    def time(**on):
        return effect_of({"ga": False, "amp": False, "pm": False} | on, TRUTH)

    base, every = time(), time(ga=True, amp=True, pm=True)
    simple = {t: time(**{t: True}) - base for t in ("ga", "amp", "pm")}
    expected = {
        ("ga", "main"): TRUTH["ga"],
        ("amp", "main"): TRUTH["amp"],
        ("pm", "main"): 0.0,
        ("ga:amp", "interaction"): TRUTH["ga:amp"],
        ("ga:amp:pm", "interaction"): 0.0,
        ("amp", "simple"): simple["amp"],
        ("ga+amp+pm", "combined"): every - base,
        ("ga+amp+pm", "synergy"): every - base - sum(simple.values()),
    }
    for (term, kind), value in expected.items():
        assert one(effects, term=term, kind=kind)["estimate"] == pytest.approx(np.exp(value), rel=1e-9)


def test_accuracy_is_in_points_and_judged_for_non_inferiority():
    study = planted(blocks=5)
    amp = one(estimate(study, accuracy_margin_points=1.0), response="accuracy", term="amp", kind="main")
    assert amp["unit"] == "points"
    assert amp["estimate"] == pytest.approx(-0.4, abs=0.15)
    assert amp["non_inferior"] is True
    strict = estimate(study, accuracy_margin_points=0.2)
    assert one(strict, response="accuracy", term="amp", kind="main")["non_inferior"] is False
    assert one(strict, term="amp", kind="main")["non_inferior"] is None


def test_pooled_rows_average_the_groups():
    effects = estimate(planted(models=("m1", "m2"), datasets=("d1", "d2")))
    groups = rows(effects, term="amp", kind="main")
    single = groups[groups["model"].ne("all") & groups["dataset"].ne("all")]
    pooled = groups[groups["model"].eq("all") & groups["dataset"].eq("all")].iloc[0]
    assert len(groups) == 9
    assert pooled["log_estimate"] == pytest.approx(single["log_estimate"].mean(), abs=1e-12)
    assert pooled["se"] == pytest.approx(np.sqrt((single["se"] ** 2).sum()) / 4)
    assert pooled["dof"] > single["dof"].max()


def test_verdicts_of_a_clear_study():
    effects = estimate(planted(blocks=5, noise=0.003))
    assert one(effects, term="amp", kind="main")["verdict"] == "pays"
    assert one(effects, term="pm", kind="main")["verdict"] == "no_effect"
    assert one(effects, term="ga:amp", kind="interaction")["verdict"] == "costs"
    assert one(effects, term="amp", kind="main", response="images_per_second")["verdict"] == "pays"
    assert one(effects, term="amp", kind="main", response="gpu_peak_allocated_mib")["estimate"] == pytest.approx(0.6)


def test_an_undecided_effect_says_how_many_blocks_would_decide_it():
    found = one(estimate(planted(blocks=2, noise=0.05, truth={"amp": np.log(0.97)})), term="amp", kind="main")
    assert found["verdict"] == "undecided"
    assert found["further_blocks"] >= 1


def test_one_replicate_uses_lenth_and_says_so():
    effects = estimate(planted(blocks=1))
    amp = one(effects, term="amp", kind="main")
    assert amp["method"] == "lenth"
    assert amp["dof"] == pytest.approx(7 / 3)
    assert amp["low"] < 0.7 < amp["high"]
    assert any("Lenth" in note for note in effects.notes)
    assert not any("Lenth" in note for note in estimate(planted(blocks=2)).notes)


def test_too_few_unreplicated_cells_give_no_interval():
    effects = estimate(planted(blocks=1, techniques=("amp",), truth={"amp": np.log(0.7)}))
    amp = one(effects, term="amp", kind="main")
    assert amp["estimate"] == pytest.approx(0.7, rel=0.05)
    assert np.isnan(amp["low"])
    assert amp["verdict"] == "undecided"


def test_a_cell_out_of_memory_is_reported_and_its_effects_are_kept():
    study = planted(blocks=3)
    runs = study.runs.copy()
    lost = runs["params.techniques"].eq("baseline")
    runs.loc[lost, "tags.ablate.outcome"] = "oom"
    runs.loc[lost, [c for c in runs if c.startswith("metrics.")]] = np.nan
    effects = estimate(replace(study, runs=runs))
    out = effects.outcomes
    assert out.loc[out["cell"].eq("baseline"), "oom"].tolist() == [3]
    amp = one(effects, term="amp", kind="main")
    assert amp["note"] == "averaged over 3 of 4 settings; no data for baseline"
    assert amp["low"] < 0.7 * np.exp(TRUTH["ga:amp"] / 6) < amp["high"]
    simple = one(effects, term="amp", kind="simple")
    assert np.isnan(simple["estimate"])
    assert simple["note"] == "no data for baseline"


def test_a_cell_missing_in_one_block_keeps_every_effect():
    study = planted(blocks=4, noise=0.002)
    lost = study.runs["tags.ablate.block"].eq("2") & study.runs["params.techniques"].eq("amp")
    effects = estimate(without(study, lost))
    assert rows(effects)["estimate"].notna().all()
    assert one(effects, term="amp", kind="simple")["estimate"] == pytest.approx(
        np.exp(TRUTH["amp"] - TRUTH["ga:amp"] / 2), rel=0.01
    )


def test_several_levels_are_compared_with_off_each():
    study = planted(blocks=3, noise=0.002)
    parts = []
    for level, shift in (("2", 0.0), ("8", -0.2), ("4", -0.1)):
        runs = study.runs[study.runs["params.ga"].eq("on")].copy()
        runs["params.level.ga"] = level
        runs["run_id"] += level
        runs["metrics.time/train_seconds"] *= np.exp(shift)
        parts.append(runs)
    parts.append(study.runs[study.runs["params.ga"].eq("off")])
    effects = estimate(replace(study, runs=pd.concat(parts, ignore_index=True)))
    assert [f.levels for f in effects.study.factors] == [("2", "4", "8"), ("on",), ("on",)]
    for level, shift in (("2", 0.0), ("4", -0.1), ("8", -0.2)):
        found = one(effects, term=f"ga={level}", kind="main")
        assert found["estimate"] == pytest.approx(0.9 * np.exp(shift), rel=0.01)
    assert len(rows(effects, kind="combined")) == 3
    assert len(rows(effects, term="ga=8:amp", kind="interaction")) == 1


def test_a_fraction_estimates_main_effects_and_prints_its_aliases():
    names = tuple("abcdef")
    cells = [tuple(r.values()) for r in fractional(names)]
    study = planted(blocks=2, techniques=names, truth={"a": np.log(0.8), "f": np.log(1.1)}, noise=0.003)
    on = study.runs[[f"params.{n}" for n in names]].eq("on").itertuples(index=False, name=None)
    keep = np.array([setting in cells for setting in on])
    effects = estimate(replace(study, runs=study.runs[keep]))
    assert keep.sum() == 32
    assert len(effects.aliases) == 15
    assert "Fractional design of resolution IV" in " ".join(effects.notes).replace("resolution 4", "resolution IV")
    assert one(effects, term="a", kind="main")["estimate"] == pytest.approx(0.8, rel=0.01)
    assert one(effects, term="f", kind="main")["estimate"] == pytest.approx(1.1, rel=0.01)
    assert one(effects, term="b", kind="main")["verdict"] == "no_effect"
    assert "aliased" in rows(effects, kind="interaction")["note"].iloc[0]


def test_a_fraction_with_a_missing_cell_falls_back_to_main_effects():
    names = tuple("abcdef")
    cells = [tuple(r.values()) for r in fractional(names)]
    study = planted(blocks=2, techniques=names, truth={"a": np.log(0.8)}, noise=0.003)
    on = list(study.runs[[f"params.{n}" for n in names]].eq("on").itertuples(index=False, name=None))
    runs = study.runs[[setting in cells for setting in on]].copy()
    runs.loc[runs["params.techniques"].eq("a+b+c+d+e+f"), "tags.ablate.outcome"] = "failed"
    effects = estimate(replace(study, runs=runs))
    found = one(effects, term="a", kind="main")
    if (runs["tags.ablate.outcome"] == "failed").any():
        assert "main-effects model" in found["note"]
        assert rows(effects, kind="interaction")["estimate"].isna().all()
    assert found["estimate"] == pytest.approx(0.8, rel=0.01)


def test_pinning_on_a_cpu_is_an_aa_control_and_its_interval_covers_one():
    effects = estimate(planted(device="cpu", gpu=False, blocks=5))
    assert effects.inert == {"pm"}
    pm = one(effects, term="pm", kind="main")
    assert pm["control"]
    assert pm["low"] < 1 < pm["high"]
    assert not one(effects, term="amp", kind="main")["control"]
    assert estimate(planted()).inert == frozenset()
    assert "gpu_joules" not in set(effects.table["response"])


def test_on_a_cpu_the_table_of_techniques_says_what_is_a_control():
    techniques = ("tf32", "non_blocking_only", "ga", "unheard_of")
    assert estimate(planted(device="cpu", gpu=False, techniques=techniques)).inert == {"tf32", "non_blocking_only"}
    assert estimate(planted(techniques=techniques)).inert == frozenset()


def test_a_store_with_only_the_names_of_the_contract_is_enough():
    full = planted(blocks=2)
    keep = ["run_id", "status", "params.model", "params.dataset", "params.seed", "params.techniques"]
    runs = full.runs[[*keep, "metrics.time/train_seconds"]]
    study = StudyData("foreign", runs, pd.DataFrame(), ())
    assert [f.name for f in tidy(study).factors] == ["amp", "ga", "pm"]
    effects = estimate(study)
    assert set(effects.table["response"]) == {"train_seconds"}
    expected = one(estimate(full), term="amp", kind="main")
    found = one(effects, term="amp", kind="main")
    assert found["estimate"] == pytest.approx(expected["estimate"], rel=1e-12)
    assert found["blocks"] == 2


def test_later_repeats_replace_and_tainted_runs_yield():
    study = planted(blocks=2, noise=0.0)
    again = study.runs.iloc[[0]].copy()
    again["run_id"], again["metrics.time/train_seconds"] = "again", 12345.0
    again["start_time"] += pd.Timedelta(days=9)
    runs = pd.concat([study.runs, again], ignore_index=True)
    assert "again" in set(tidy(replace(study, runs=runs)).runs["run_id"])
    runs.loc[len(runs) - 1, "tags.ablate.tainted"] = "neighbour"
    clean = tidy(replace(study, runs=runs))
    assert "again" not in set(clean.runs["run_id"])
    assert clean.superseded == 1


def test_settings_that_differ_within_a_cell_are_never_mixed():
    a, b = planted(blocks=2), planted(blocks=2, seed=5)
    b.runs["params.recipe.batch_size"] = "256"
    b.runs["run_id"] += "b"
    effects = estimate(replace(a, runs=pd.concat([a.runs, b.runs], ignore_index=True)))
    groups = set(effects.study.runs["model"])
    assert groups == {"resnet [batch_size=128]", "resnet [batch_size=256]"}
    assert len(effects.study.runs) == 32
    assert any("batch_size" in note for note in effects.notes)


def test_sentinels_stay_out_of_the_effects():
    study = planted(blocks=2)
    extra = study.runs[study.runs["params.techniques"].eq("baseline")].copy()
    extra["tags.ablate.kind"], extra["metrics.time/train_seconds"] = "sentinel", 9e9
    extra["run_id"] += "s"
    with_them = estimate(replace(study, runs=pd.concat([study.runs, extra], ignore_index=True)))
    pd.testing.assert_frame_equal(with_them.table, estimate(study).table)


def test_a_study_without_a_finished_run_has_outcomes_and_no_effects():
    study = planted(blocks=1)
    study.runs["tags.ablate.outcome"] = "failed"
    effects = estimate(study)
    assert effects.table.empty
    assert effects.outcomes["failed"].sum() == 8
    assert estimate(StudyData("empty", pd.DataFrame())).table.empty


@pytest.mark.parametrize("bad", [{"margin": 0}, {"accuracy_margin_points": -1}, {"confidence": 1.0}])
def test_wrong_options_are_refused(bad):
    with pytest.raises(ValueError, match="got"):
        estimate(planted(blocks=1), **bad)

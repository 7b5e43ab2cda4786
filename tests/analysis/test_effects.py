"""Effects of planted studies: definitions, verdicts, missing cells, levels, fractions."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis import verdicts
from pipeline.analysis.effects import COLUMNS, estimate
from pipeline.design.factorial import fractional
from pipeline.tracking.study_data import StudyData
from tests.support.planted import TRUTH, effect_of, one, planted, rows
from tests.support.reports import report_of


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


def test_verdicts_of_a_clear_study():
    effects = estimate(planted(blocks=5, noise=0.003))
    assert one(effects, term="amp", kind="main")["verdict"] == "pays"
    assert one(effects, term="pm", kind="main")["verdict"] == "no_effect"
    assert one(effects, term="ga:amp", kind="interaction")["verdict"] == "costs"
    assert one(effects, term="amp", kind="main", response="images_per_second")["verdict"] == "pays"
    assert one(effects, term="amp", kind="main", response="gpu_peak_allocated_mib")["estimate"] == pytest.approx(0.6)


def test_an_undecided_effect_says_how_many_blocks_would_decide_it():
    found = rows(estimate(planted(blocks=2, noise=0.05, truth={})), kind="main")
    p = found["p"].to_numpy()
    assert set(found["verdict"]) == {"undecided"}
    assert (verdicts.holm_factors(p) * p > 1).any(), "one that Holm's method cuts at 1"
    estimates, se, dof, blocks = (found[name].to_numpy() for name in ("log_estimate", "se", "dof", "blocks"))
    planned = verdicts.further_blocks(estimates, se, dof, blocks, np.log(1.01), verdicts.holm_factors(p), 0.05, 4)
    assert found["further_blocks"].tolist() == planned.tolist()


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


def test_a_cell_without_energy_has_no_effect_on_it(recwarn):
    study = planted(blocks=2)
    study.runs.loc[study.runs["params.techniques"].eq("amp"), "metrics.energy/gpu_joules"] = 0.0
    built = report_of(study)
    rows = built.effects.table.query("response == 'gpu_joules'")
    assert rows.query("term == 'amp' and kind == 'simple'")["estimate"].isna().all()
    assert rows.query("term == 'pm' and kind == 'simple'")["estimate"].notna().all()
    assert "amp" not in set(built.effects.cells.query("response == 'gpu_joules'")["cell"])
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def copied(blocks, spread=0.003, models=("resnet",)):
    """A study on a CPU, where `pm` changes no bit: each run's accuracy stands twice."""
    study = planted(models=models, blocks=blocks, techniques=("ga", "pm"), device="cpu", gpu=False, seed=3)
    runs = study.runs
    first = runs.drop_duplicates(["params.model", "tags.ablate.block", "params.ga"])
    keys = ["params.model", "tags.ablate.block", "params.ga"]
    drawn = first[keys].assign(accuracy=np.random.default_rng(1).normal(0.9, spread, len(first)).round(4))
    runs["metrics.test/accuracy"] = runs[keys].merge(drawn, on=keys, how="left")["accuracy"].to_numpy()
    return study


def test_one_seed_of_copies_has_no_interval_and_says_so():
    effects = estimate(copied(1))
    accuracy = rows(effects, response="accuracy")
    assert accuracy["low"].isna().all()
    assert set(accuracy["verdict"]) == {"undecided"}
    assert any("One seed cannot say" in note and "accuracy" in note for note in effects.notes)


def test_copies_of_accuracy_are_no_replicates():
    """With a technique that changes no bit the interval is that of the blocks, not of twice the runs."""
    study = copied(3)
    half = replace(study, runs=study.runs[study.runs["params.pm"].eq("off")], techniques=("ga",))
    both, alone = (rows(estimate(s), response="accuracy", kind="main", term="ga").iloc[0] for s in (study, half))
    assert both["se"] == pytest.approx(alone["se"], rel=1e-9)
    assert both["dof"] == pytest.approx(2)
    assert alone["dof"] == pytest.approx(2)
    assert both["method"] == "cr2"


def test_blocks_that_agree_to_the_last_digit_are_no_certainty():
    study = copied(2, spread=0.0)
    study.runs["metrics.test/accuracy"] = np.where(study.runs["params.ga"].eq("on"), 0.91, 0.90)
    effects = estimate(study)
    ga = rows(effects, response="accuracy", kind="main", term="ga").iloc[0]
    assert ga["estimate"] == pytest.approx(1.0)
    assert np.isnan(ga["low"]) and ga["verdict"] == "undecided"
    assert any("agree to the last digit" in note for note in effects.notes)


def test_below_four_blocks_it_says_what_the_errors_of_times_assume():
    few, enough = estimate(planted(blocks=3)), estimate(planted(blocks=4))
    assert any("act alike in all blocks" in note for note in few.notes)
    assert not any("act alike in all blocks" in note for note in enough.notes)
    assert set(rows(few, response="train_seconds")["method"]) == {"hc2"}
    assert set(rows(enough, response="train_seconds")["method"]) == {"cr2"}


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000), blocks=st.integers(2, 5), dropped=st.integers(0, 5))
def test_the_order_of_the_runs_changes_nothing(seed, blocks, dropped):
    """Estimates, errors, p-values, pooled rows and plans are functions of the data, complete or not."""
    study = planted(models=("m1", "m2"), techniques=("ga", "amp"), blocks=blocks, seed=seed)
    runs = study.runs.drop(index=np.random.default_rng(seed).choice(study.runs.index, dropped, replace=False))
    shuffled = runs.sample(frac=1, random_state=seed)
    tables = []
    for given_runs in (runs, shuffled):
        effects = estimate(replace(study, runs=given_runs))
        both = pd.concat([effects.table, effects.details.drop(columns="blocks")], axis=1)
        tables.append(both.sort_values(["model", "response", "kind", "term"]).reset_index(drop=True))
    for name in ("log_estimate", "se", "dof", "p_adjusted", "further_blocks"):
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-8, atol=1e-10, err_msg=name)
    for name in ("term", "method", "verdict"):
        assert tables[0][name].tolist() == tables[1][name].tolist()
    complete = tables[0][tables[0]["estimable"]] if not dropped else tables[0].iloc[:0]
    assert np.isfinite(complete["se"]).all()

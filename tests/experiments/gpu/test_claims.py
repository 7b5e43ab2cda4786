"""The table of claims: what a claim has to have, and how its verdict follows from the numbers."""

from __future__ import annotations

import copy

import claims
import pytest
import yaml

from pipeline.design.catalog import MODELS
from pipeline.design.techniques import TECHNIQUES
from pipeline.errors import InputError
from tests.support.packed_evidence import ROOT

EFFECT = {
    "id": "a-b",
    "sentence": "s",
    "ours": {
        "study": "paper32", "model": "resnet50", "response": "train_seconds", "kind": "main", "term": "amp"
    },
    "public": {"says": "2", "low": 1.5, "high": 2.5},
    "rule": "range",
    "unit": "ratio",
    "source": "x",
}  # fmt: skip


def claim(**changes) -> claims.Claim:
    return claims.Claim.model_validate({**EFFECT, **changes})


@pytest.mark.parametrize(
    ("estimate", "low", "high", "verdict"),
    [
        (2.0, 1.6, 2.4, "agrees"),
        (2.0, 1.5, 2.5, "agrees"),
        (2.0, 1.4, 2.4, "undecided"),
        (3.0, 2.4, 3.6, "undecided"),
        (2.0, 1.0, 9.0, "undecided"),
        (3.0, 2.6, 3.4, "differs"),
        (1.0, 0.8, 1.2, "differs"),
        (2.0, None, None, "agrees"),
        (2.6, None, None, "differs"),
    ],
)
def test_a_range(estimate, low, high, verdict):
    assert claims.judge(claim(), claims.Ours(estimate, low, high, 3)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(90, 110, "undecided"), (101, 110, "agrees"), (90, 99, "differs")]
)
def test_a_floor(low, high, verdict):
    found = claim(public={"says": "100", "low": 100})
    assert claims.judge(found, claims.Ours(100.0, low, high, 3)) == verdict


@pytest.mark.parametrize("rule", ["pays", "costs", "no_effect"])
@pytest.mark.parametrize("ours", ["pays", "costs", "no_effect", "undecided", ""])
def test_a_claimed_verdict(rule, ours):
    found = claims.judge(claim(rule=rule, public={"says": "so"}), claims.Ours(1.0, 0.9, 1.1, 3, ours))
    assert found == ("undecided" if ours in ("undecided", "") else "agrees" if ours == rule else "differs")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ruel": "range"}, "ruel: Extra inputs are not permitted"),
        ({"public": {"says": "x"}}, "rule range needs a bound"),
        ({"rule": "pays"}, "the other rules have none"),
        ({"public": {"says": "x", "low": 2, "high": 1}}, "low is above high"),
        ({"ours": {"probe": "p", "figure": "f"}, "rule": "pays", "public": {"says": "x"}}, "rule pays is for effects"),
        ({"ours": {**EFFECT["ours"], "response": "speed"}}, "ours.effect.response"),
        ({"ours": {**EFFECT["ours"], "cell": "amp"}}, "ours.effect.cell: Extra inputs"),
    ],
)
def test_a_claim_that_is_none_is_refused_in_one_line(change, said, tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{**copy.deepcopy(EFFECT), **change}]))
    with pytest.raises(InputError) as caught:
        claims.load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_id_is_there_once(tmp_path):
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([EFFECT, EFFECT]))
    with pytest.raises(InputError, match="'a-b' is there twice"):
        claims.load(tmp_path / "claims.yaml")


def test_yaml_makes_no_objects(tmp_path):
    (tmp_path / "claims.yaml").write_text("- !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="cannot be read"):
        claims.load(tmp_path / "claims.yaml")


def test_the_settings_of_a_model_are_matched_as_a_set():
    place = claims.CellOf(study="s", model="m", settings=("a=1",), response="train_seconds", cell="amp")
    assert place.matches("m [a=1]", "imagefolder:x")
    assert place.matches("m [b=2, a=1]", "imagefolder:x")
    assert not place.matches("m", "imagefolder:x")
    assert not place.matches("m [a=10]", "imagefolder:x")
    assert not place.matches("m2 [a=1]", "imagefolder:x")
    assert not place.matches("m [a=1]", "cifar10")


def test_the_claims_of_the_project_name_known_models_and_techniques():
    found = claims.load(ROOT / "experiments/gpu/claims.yaml")
    for known in found:
        if isinstance(known.ours, claims.Where):
            assert known.ours.model in MODELS, known.id
            term = known.ours.term if isinstance(known.ours, claims.EffectOf) else known.ours.cell
            assert set(claims.techniques(term)) <= set(TECHNIQUES), known.id
        assert "http" not in known.source

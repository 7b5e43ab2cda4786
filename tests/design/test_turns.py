"""Which cells take turns together, and how long a turn is."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.design.plan import Plan, build_plan
from pipeline.design.selection import GridOptions, select_plan
from pipeline.design.spec import TurnPlan
from pipeline.design.turns import EDGE_SHARE, TURN_SECONDS, identity, turn_groups, turn_length


def plan_of(**options: object) -> Plan:
    base = GridOptions(study="quickstart", datasets="digits", device="cpu")
    return select_plan(replace(base, **options), "cpu").plan


def test_a_group_is_a_model_and_a_data_set_with_the_baseline_first() -> None:
    groups = turn_groups(plan_of(seeds=3, datasets="digits100,digits"))
    names = ["test_resnet", "test_vit", "test_efficientnet"]
    assert [group.name for group in groups] == [f"{m}/{d}" for m in names for d in ("digits100", "digits")]
    for group in groups:
        assert len(group.runs) == 8 and {run.block for run in group.runs} == {0}
        assert [len(run.spec.techniques) for run in group.runs] == [0, 1, 1, 1, 2, 2, 2, 3]
        assert {run.kind for run in group.runs} == {"turns"}
        for run in group.runs:
            assert group.multiple % run.spec.recipe.effective_batch == 0
            assert run.spec.turns == TurnPlan(multiple=group.multiple)


def test_the_multiple_is_that_of_all_windows() -> None:
    found = turn_groups(plan_of(models="test_resnet", techniques="ga", levels=("ga=3,4",)))
    assert [group.multiple for group in found] == [64 * 12]


def test_variants_are_groups_of_their_own() -> None:
    study = plan_of(models="test_resnet", techniques="ga").study
    found = turn_groups(build_plan(study.model_copy(update={"variants": {"batch_size": (32, 64)}}), "cpu"))
    assert [(len(group.runs), group.multiple) for group in found] == [(2, 64), (2, 128)]
    names = [group.name for group in found]
    assert names == [f"test_resnet [batch_size={size}]/digits" for size in (32, 64)], "what came of each is kept by it"


def test_the_identity_is_that_of_the_cells() -> None:
    def of(**options: object) -> str:
        return identity(turn_groups(plan_of(models="test_resnet", **options)))

    assert of() == of(seeds=4) != of(techniques="ga") != of(settings=("learning_rate=0.5",))
    alone = plan_of(models="test_resnet").runs[0].spec
    assert alone.digest != alone.model_copy(update={"turns": TurnPlan(multiple=256)}).digest


@given(
    multiple=st.integers(1, 4096),
    seconds=st.lists(st.floats(1e-4, 10), min_size=1, max_size=9),
    edge=st.floats(0, 0.1),
    ahead=st.integers(0, 10_000),
    epoch=st.integers(1, 500),
)
def test_a_turn_is_as_short_as_its_edges_allow_and_comes_to_all_places_of_an_epoch(
    multiple: int, seconds: list[float], edge: float, ahead: int, epoch: int
) -> None:
    found = turn_length(multiple, seconds, edge, ahead, epoch * multiple)
    count, head = found.images // multiple, found.head // multiple
    assert found.images == count * multiple and found.head == head * multiple
    least = max(1, math.ceil(max(TURN_SECONDS, edge / EDGE_SHARE) / sorted(seconds)[len(seconds) // 4]))
    assert least <= count < least + epoch
    assert head * multiple >= ahead > (head - 1) * multiple or head == ahead == 0
    assert math.gcd(count + head, epoch) == 1 if head else count == least

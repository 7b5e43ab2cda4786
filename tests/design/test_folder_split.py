"""The test part that is set aside where a data set has none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.design.folder_split import TEST_SHARE, set_aside
from pipeline.design.image_files import SplitFiles


def files(names: list[str], labels: list[int]) -> SplitFiles:
    return SplitFiles(tuple(names), tuple(labels), (1,) * len(names), (2,) * len(names))


@settings(deadline=None)
@given(counts=st.lists(st.integers(2, 40), min_size=1, max_size=6), data=st.data())
def test_it_is_stratified_disjoint_and_whatever_the_order(counts: list[int], data: st.DataObject) -> None:
    rows = [(f"{label}/é {number}.jpg", label) for label, count in enumerate(counts) for number in range(count)]
    names, labels = map(list, zip(*rows, strict=True))
    train, test = set_aside(files(names, labels), names)
    assert sorted(train.names + test.names) == sorted(names) and not set(train.names) & set(test.names)
    for label, count in enumerate(counts):
        wanted = min(max(round(TEST_SHARE * count), 1), count - 1)
        assert (train.labels.count(label), test.labels.count(label)) == (count - wanted, wanted)
    mixed = data.draw(st.permutations(rows))
    names, labels = map(list, zip(*mixed, strict=True))
    assert set(set_aside(files(names, labels), names)[1].names) == set(test.names)


def test_it_is_the_same_for_ever() -> None:
    """A change of the rule has to change `RULE`, or data of another split would have the same identity."""
    names = [f"cat/{number}.jpg" for number in range(10)]
    assert set_aside(files(names, [0] * 10), names)[1].names == ("cat/3.jpg", "cat/8.jpg")


def test_a_name_that_is_not_text() -> None:
    names = ["cat/\udcff.jpg", "cat/a.jpg"]
    train, test = set_aside(files(names, [0, 0]), names)
    assert len(train) == len(test) == 1

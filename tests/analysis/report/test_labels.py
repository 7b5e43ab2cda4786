"""What groups are called beside each other."""

import pytest

from pipeline.analysis.report.labels import GroupLabels, shortened


@pytest.mark.parametrize(
    ("groups", "shared", "labels"),
    [
        ([("m", "d"), ("all", "all")], "m / d", ["", ""]),
        ([("m", "d"), ("n", "d"), ("all", "d")], "d", ["m", "n", "all models"]),
        ([("m", "d"), ("m", "e"), ("all", "all")], "m", ["d", "e", "all"]),
        ([("m", "d"), ("n", "e"), ("m", "all"), ("all", "all")], "", ["m / d", "n / e", "m / all data sets", "all"]),
    ],
)
def test_a_label_has_what_sets_a_group_apart_and_the_title_what_all_share(groups, shared, labels):
    names = GroupLabels.of(groups)
    assert (names.shared, [names.label(*group) for group in groups]) == (shared, labels)
    assert names.title("Speed-ups") == (f"Speed-ups: {shared}" if shared else "Speed-ups")
    assert all(names.full(*group) for group in groups)


def test_both_ends_of_a_long_label_stay():
    label = f"amp+channels_last, timm:{'x' * 80} / imagefolder:/photos"
    assert len(shortened(label)) == 64 and shortened("short") == "short"
    assert shortened(label).startswith("amp+channels_last") and shortened(label).endswith("imagefolder:/photos")

"""What a technique could save."""

import pytest

from pipeline.analysis import ceilings
from pipeline.analysis.ceilings import ceiling
from pipeline.design.techniques import TECHNIQUES

SHARES = {"data_wait": 0.1, "h2d": 0.02, "forward": 0.25, "backward": 0.5, "optimizer": 0.08, "idle": 0.05}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_has_a_ceiling(name):
    limit = ceiling(name, SHARES, TECHNIQUES[name].default["cuda"], launch_bound=0.7)
    assert (limit > 0) is bool(TECHNIQUES[name].saves)
    without = ceiling(name, dict.fromkeys(SHARES, 0.0), launch_bound=0.7)
    assert without == 0, "there is nothing to save in a phase that takes no time"


def test_the_ceiling_of_recorded_passes_is_what_launching_bounds():
    assert ceiling("cuda_graph", SHARES) is None
    assert ceiling("cuda_graph", {"forward": 0.4, "backward": 0.6}, launch_bound=0.5) is None
    assert ceiling("cuda_graph", SHARES, launch_bound=0.0) == pytest.approx(0.05)
    assert ceiling("cuda_graph", SHARES, launch_bound=0.7) == pytest.approx(0.05 + 0.7 * 0.83)
    # the optimizer is not recorded: with everything bound, the two passes and the idle time are left
    assert ceiling("cuda_graph", SHARES, launch_bound=1.0) == pytest.approx(0.05 + 0.75)
    assert ceiling("compile", SHARES, launch_bound=0.7) == ceiling("compile", SHARES) == pytest.approx(0.88)


def test_why_bf16_does_not_pay_on_a_cpu_is_what_the_cpu_lacks():
    row = {"estimate": 3.861, "low": 2.268, "high": 6.579, "kind": "simple", "verdict": "costs"}
    why = ceilings.bf16_reason("none", costs=True)
    assert ceilings.sentence("amp", "amp", 0.883, False, row, None, why) == (
        "amp: this CPU has no bf16 instructions: it computes in fp32, with conversions on top; "
        "measured: 0.259x as fast [0.152, 0.441]."
    )
    assert "amx_bf16" in ceilings.bf16_reason("amx_bf16", costs=True)
    assert ceilings.bf16_reason("amx_bf16", costs=False) == ceilings.bf16_reason("", costs=True) == ""

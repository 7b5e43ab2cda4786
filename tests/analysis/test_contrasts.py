"""Which questions are asked of a study's cells."""

import time
from itertools import product

import numpy as np
import pytest

from pipeline.analysis.contrasts import aliases_of, build_contrasts, highest_order, label, left_out
from pipeline.analysis.frame import Factor
from pipeline.design.factorial import fractional

PAIR = [Factor("ga", ("on",)), Factor("amp", ("on",))]
CELLS = list(product(("off", "on"), repeat=2))


def by_term(contrasts):
    return {(c.kind, c.term): c for c in contrasts}


def test_every_contrast_compares_cells():
    for contrast in build_contrasts(CELLS, CELLS, PAIR):
        assert contrast.weights.sum() == pytest.approx(0)
        assert contrast.note == ""


def test_a_missing_cell_is_named_and_what_needs_it_has_no_weights():
    found = by_term(build_contrasts(CELLS[:3], CELLS, PAIR))
    assert found["main", "ga"].weights.tolist() == [-1, 0, 1]
    assert found["main", "ga"].note == "averaged over 1 of 2 settings; no data for ga+amp"
    assert found["simple", "amp"].note == ""
    for gone in (found["combined", "ga+amp"], found["synergy", "ga+amp"]):
        assert gone.weights is None and gone.note == "no data for ga+amp"


def test_each_level_of_a_technique_is_compared_with_off():
    factors = [Factor("ga", ("2", "4")), Factor("amp", ("on",))]
    cells = list(product(("off", "2", "4"), ("off", "on")))
    found = by_term(build_contrasts(cells, cells, factors))
    assert {term for kind, term in found if kind == "main"} == {"ga=2", "ga=4", "amp"}
    weights = dict(zip(cells, found["simple", "ga=4"].weights, strict=True))
    assert weights["4", "off"] == 1 and weights["off", "off"] == -1 and np.abs(list(weights.values())).sum() == 2
    assert ("combined", "ga=4+amp") in found


def test_one_technique_has_no_combination():
    cells = [("off",), ("on",)]
    assert [c.kind for c in build_contrasts(cells, cells, PAIR[:1])] == ["main", "simple"]


def test_a_regular_fraction_has_one_contrast_per_alias_set():
    factors = [Factor(name, ("on",)) for name in "abcdef"]
    cells = [tuple("on" if on else "off" for on in row.values()) for row in fractional(list("abcdef"))]
    aliases = aliases_of(cells, factors)
    found = [c for c in build_contrasts(cells, cells, factors) if c.kind in ("main", "interaction")]
    assert len(found) == len(aliases) == len(cells) - 1
    assert any(c.note.startswith("aliased: ") for c in found)
    assert aliases_of(cells[1:], factors) == ()


def test_cells_are_named_as_runs_are():
    assert [label(cell, PAIR) for cell in CELLS] == ["baseline", "amp", "ga", "ga+amp"]


def test_many_techniques_have_main_effects_and_interactions_of_two_within_moments():
    names = [f"t{i}" for i in range(22)]
    factors = [Factor(name, ("on",)) for name in names]
    screening = [tuple("on" if row[name] else "off" for name in names) for row in fractional(names)]
    once = [tuple("on" if i == on else "off" for i in range(22)) for on in range(-1, 22)]
    for cells in (screening, once):
        began = time.perf_counter()
        found = build_contrasts(cells, cells, factors)
        assert time.perf_counter() - began < 5
        assert {c.term for c in found if c.kind == "main"} == set(names)
        assert max(len(c.techniques) for c in found if c.kind == "interaction") == 2
    (first,) = [c for c in found if c.term == "t0" and c.kind == "main"]
    assert first.note == f"averaged over 1 of {2**21} settings; no data for {2**22 - 23} cells"


def test_what_is_left_out_of_many_techniques_is_said():
    def factors(number):
        return [Factor(f"t{i}", ("on",)) for i in range(number)]

    assert [highest_order(factors(k)) for k in (1, 8, 9, 10, 12, 22, 40)] == [1, 8, 5, 4, 3, 2, 2]
    assert left_out(factors(8)) == ""
    assert left_out(factors(22)) == "22 techniques: interactions of more than 2 of them are left out."

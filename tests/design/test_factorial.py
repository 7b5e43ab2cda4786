"""Fractions and their aliases."""

import subprocess
import sys

import pytest

from pipeline.design import factorial


@pytest.mark.parametrize("k", [1, 3, 5])
def test_up_to_five_techniques_the_design_is_full(k):
    rows = factorial.fractional([f"t{i}" for i in range(k)])
    assert len({tuple(r.values()) for r in rows}) == 2**k
    assert not any(rows[0].values())
    assert list(factorial.defining_words(rows)) == []


@pytest.mark.parametrize("k", [6, 7, 8, 9, 10])
def test_above_five_the_fraction_has_resolution_four_and_holds_the_baseline(k):
    names = [f"t{i}" for i in range(k)]
    rows = factorial.fractional(names)
    assert len(rows) < 2**k
    assert not any(rows[0].values())
    assert factorial.resolution(rows) == 4
    assert factorial.is_regular_fraction(rows)
    for group in factorial.alias_structure(rows):
        lengths = [len(word) for _, word in group.words]
        assert not (1 in lengths and 2 in lengths)  # main effects are clear of two-factor interactions


def test_aliased_effects_have_equal_columns_up_to_their_sign():
    rows = factorial.fractional(list("abcdef"))
    sets = factorial.alias_structure(rows)
    assert len(sets) == len(rows) - 1
    for group in sets:
        columns = []
        for sign, word in group.words:
            product = [1] * len(rows)
            for name in word:
                product = [p * (1 if row[name] else -1) for p, row in zip(product, rows, strict=True)]
            columns.append([sign * p for p in product])
        assert all(column == columns[0] for column in columns)


def test_alias_equations_name_what_cannot_be_told_apart():
    half = [{"a": a, "b": b, "c": a != b} for a in (False, True) for b in (False, True)]
    assert factorial.resolution(half) == 3
    assert factorial.alias_structure(half)[0].describe() == "a = -b:c"


def test_repeated_names_are_refused():
    with pytest.raises(ValueError, match="distinct"):
        factorial.fractional(["a", "a"])


def test_importing_the_design_is_light():
    code = "import sys, pipeline.design.factorial; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "scipy", "pandas", "pyDOE3"} & set(done.stdout.split())

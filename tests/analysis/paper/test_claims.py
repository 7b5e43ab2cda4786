"""The facts about the paper."""

import pytest

from pipeline.analysis.paper.claims import CLAIMS, CONFOUNDS


def test_claims_have_keys_of_their_own_and_a_caveat_each():
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS) == 14
    assert all(claim.claim and claim.caveat for claim in CLAIMS)
    assert len(CONFOUNDS) == 8


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_a_claim_about_a_level_names_where_it_was_measured(claim):
    assert claim.quantity in ("accuracy", "hours", "combined", "single")
    assert bool(claim.model and claim.dataset) == (claim.quantity in ("accuracy", "hours"))

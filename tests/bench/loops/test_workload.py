"""The work that all contenders do."""

from __future__ import annotations

import pytest
import torch

from pipeline.bench.loops.workload import Work, build_workload, loader, run_spec
from tests.support.bench import CASE


@pytest.fixture(scope="module")
def work() -> Work:
    return build_workload(CASE)


def test_the_same_case_makes_the_same_work(work: Work) -> None:
    again = build_workload(CASE)
    assert torch.equal(work.images, again.images) and torch.equal(work.labels, again.labels)
    assert all(torch.equal(a, b) for a, b in zip(work.model().parameters(), again.model().parameters(), strict=True))


def test_models_are_copies(work: Work) -> None:
    one, other = work.model(), work.model()
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_images_are_normalised_to_the_moments_of_the_data_set(work: Work) -> None:
    grey = torch.full((2, 3, 4, 4), 128, dtype=torch.uint8)
    expected = (128 / 255 - torch.tensor([0.49140, 0.48216, 0.44653])) / torch.tensor([0.24703, 0.24349, 0.26159])
    torch.testing.assert_close(work.normalised(grey)[0, :, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_the_loader_gives_the_images_in_the_works_order(work: Work) -> None:
    batches, order = loader(work)
    order.epoch = 2
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(labels, work.labels[work.order(2)])
    assert not torch.equal(work.order(1), work.order(2))


def test_a_run_of_ablate_has_the_same_recipe() -> None:
    recipe = run_spec(CASE).recipe
    assert (recipe.batch_size, recipe.image_size, recipe.optimizer) == (CASE.batch, CASE.image_size, "sgd")
    assert recipe.validation_fraction == 0.0

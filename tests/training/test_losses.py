"""The losses of an epoch: kept in order on the device, averaged over the windows that updated the model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.training.losses import DivergedError, WindowLosses, check_weights, mean_loss
from pipeline.training.step import plan_windows

CPU = torch.device("cpu")


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), max_size=200), looks=st.sets(st.integers(0, 199)))
def test_losses_of_windows_are_kept_in_order(values: list[float], looks: set[int]) -> None:
    losses = WindowLosses(len(values), CPU)
    for number, value in enumerate(values):
        losses.add(torch.tensor(value))
        if number in looks:
            assert losses.all().tolist() == values[: number + 1]
    assert losses.all().tolist() == values


def test_an_epoch_of_skipped_updates_is_no_divergence() -> None:
    """A scaler that starts too high skips its first updates, and finds its scale in the next epoch."""
    windows = plan_windows(12, 4, 1)
    losses = torch.tensor([1.0, 2.0, 3.0])
    assert mean_loss(losses, windows, [False, False, False], 1) == pytest.approx(2.0)
    assert mean_loss(losses, windows, [False, True, True], 1) == pytest.approx(2.5)
    losses[1] = float("inf")
    assert mean_loss(losses, windows, [True, False, True], 1) == pytest.approx(2.0)
    with pytest.raises(DivergedError, match="epoch 1, step 2 of 3"):
        mean_loss(losses, windows, [False, False, False], 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("ruined", ["0.weight", "1.running_mean", "1.running_var", "2.bias"])
def test_a_weight_that_is_no_finite_number_is_found_wherever_it_is(ruined: str, value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    check_weights(model, 1)
    with torch.no_grad():
        model.state_dict()[ruined].view(-1)[-1] = value
    with pytest.raises(DivergedError, match=rf"^weights are not finite after epoch 7 \({ruined}, 1 tensors in all\)$"):
        check_weights(model, 7)

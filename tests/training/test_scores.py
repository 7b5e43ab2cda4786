"""Scores of labels and outputs, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.training.scores import confusion, epoch_scores, final_scores


def test_scores_of_a_known_case() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    predictions = np.array([0, 1, 1, 1, 2, 0])
    found = epoch_scores(labels, predictions)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1_macro"] == pytest.approx(np.mean([0.5, 0.8, 2 / 3]))
    final = final_scores(labels, np.eye(3, dtype=np.float32)[predictions])
    assert final["precision_macro"] == pytest.approx(np.mean([1 / 2, 2 / 3, 1.0]))
    assert final["recall_macro"] == pytest.approx(np.mean([0.5, 1.0, 0.5]))
    assert "top5_accuracy" not in final
    assert confusion(labels, predictions, 4).tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_top_5_of_100_classes() -> None:
    logits = np.zeros((2, 100), dtype=np.float32)
    logits[:, :10] = np.arange(10, 0, -1)
    final = final_scores(np.array([4, 5]), logits)
    assert final["top5_accuracy"] == 0.5 and final["accuracy"] == 0.0


def test_a_test_set_says_what_chance_is_on_it() -> None:
    final = final_scores(np.array([0, 2, 2, 1, 2]), np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 0]])
    assert final["majority"] == 0.6

"""Scores from arrays, by scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn import metrics as scores

ClassLabels = npt.NDArray[np.int64]


def epoch_scores(labels: ClassLabels, predictions: ClassLabels) -> dict[str, float]:
    """Accuracy (fraction) and macro F1 of integer labels and predictions, both of shape (n,)."""
    return {
        "accuracy": float(scores.accuracy_score(labels, predictions)),
        "f1_macro": float(scores.f1_score(labels, predictions, average="macro", zero_division=0.0)),
    }


def final_scores(labels: ClassLabels, logits: npt.NDArray[np.float32]) -> dict[str, float]:
    """Final scores: accuracy, macro F1, precision and recall, and top-5 accuracy where there are 100 classes.

    Beside them `majority`, the share of the most frequent class: the accuracy of a model without training.

    Args:
        labels: integer labels, shape (n,), at least one.
        logits: outputs of the model, shape (n, classes).
    """
    predictions = logits.argmax(axis=1)
    values = epoch_scores(labels, predictions)
    options = {"average": "macro", "zero_division": 0.0}
    values["precision_macro"] = float(scores.precision_score(labels, predictions, **options))
    values["recall_macro"] = float(scores.recall_score(labels, predictions, **options))
    values["majority"] = float(np.bincount(labels).max() / len(labels))
    if logits.shape[1] >= 100:
        classes = np.arange(logits.shape[1])
        values["top5_accuracy"] = float(scores.top_k_accuracy_score(labels, logits, k=5, labels=classes))
    return values


def confusion(labels: ClassLabels, predictions: ClassLabels, classes: int) -> npt.NDArray[np.int64]:
    """Confusion matrix of integer labels and predictions, both of shape (n,).

    Returns:
        Numbers of samples, int64 (classes, classes): rows are true classes, columns predictions.
    """
    matrix: npt.NDArray[np.int64] = scores.confusion_matrix(labels, predictions, labels=np.arange(classes))
    return matrix

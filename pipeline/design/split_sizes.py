"""How many images a run trains and validates on. No torch and no NumPy: the parent half asks too."""

from __future__ import annotations


def sizes(n: int, classes: int, fraction: float, max_samples: int | None, own: int = 0) -> tuple[int, int]:
    """Counts the images (to train on, to validate on).

    Args:
        n: images of the training part, with those of a validation part of its own.
        classes: how many there are; the validation part has room for each.
        fraction: the part that is held out for validation, 0 for none.
        max_samples: the most images to train on, which the held-out part then follows; None for all.
        own: how many of `n` are a validation part of its own, which then is what is held out; 0 where there is none.
    """
    if own:
        train = n - own
        held_out = own if fraction else 0
        if max_samples is not None and max_samples < train:
            held_out = min(held_out, max(round(held_out * max_samples / train), classes))
            train = max_samples
        return train, held_out
    held_out = max(round(fraction * n), classes) if fraction else 0
    train = n - held_out
    if max_samples is not None and max_samples < train:
        train = max_samples
        held_out = min(held_out, max(round(train * fraction / (1 - fraction)), classes)) if fraction else 0
    return train, held_out

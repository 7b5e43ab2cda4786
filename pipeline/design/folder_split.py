"""The test part of a data set that has none: a fixed share of each class, chosen by the files' names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from pipeline.design.image_files import SplitFiles

TEST_SHARE = 0.2
# identity of the rule: another share, or another order, is another data set
RULE = f"test part: {TEST_SHARE} of each class by the SHA-256 of CLASS/FILE"


def set_aside(images: SplitFiles, keys: Sequence[str]) -> tuple[SplitFiles, SplitFiles]:
    """Splits a data set without a test part into (training, test): stratified, without any chance in it.

    A file's place depends on its key alone, not on the place of the folder, its content or the run's seed: every run
    on every machine scores the same images, and none of them is ever trained on. One image of a class at least goes
    to each part.

    Args:
        images: all of them; every class has two or more.
        keys: what each is called in the rule, `CLASS/FILE`.
    """
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for row, (label, key) in enumerate(zip(images.labels, keys, strict=True)):
        by_class.setdefault(label, []).append((hashlib.sha256(os.fsencode(key)).digest(), row))
    test: set[int] = set()
    for ranked in by_class.values():
        count = min(max(round(TEST_SHARE * len(ranked)), 1), len(ranked) - 1)
        test.update(row for _digest, row in sorted(ranked)[:count])
    rows = range(len(images))
    return images.rows([row for row in rows if row not in test]), images.rows([row for row in rows if row in test])

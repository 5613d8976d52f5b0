# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The order of training rows in an epoch."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

CHUNK_BATCHES = 50  # batches sorted by length together: enough to cut padding, few enough to keep batches random


class LengthGroupedEpochSampler(Sampler[int]):
    """Histories in batches of similar length, in an order that depends on seed and epoch alone.

    transformers' sampler draws from the global generator: a run that is resumed within an epoch sees another order
    than the run it continues. This one yields the same order. It yields keys of [`EpochRows`]: epoch * rows + row.

    Args:
        lengths: Length of each history. batch_size: Histories of a whole (accumulated, multi-process) batch: runs that
            split it in other ways see the same ones.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        chunk = self.batch_size * CHUNK_BATCHES
        batches: list[np.ndarray] = []
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            batches.extend(np.split(part, range(self.batch_size, len(part), self.batch_size)))
        last = batches.pop() if len(batches[-1]) < self.batch_size else None  # a short batch must stay the last one
        shuffled = [batches[i] for i in rng.permutation(len(batches))]
        order = np.concatenate([*shuffled, *([] if last is None else [last])])
        return iter((order + self.epoch * len(self.lengths)).tolist())


__all__ = ["LengthGroupedEpochSampler"]

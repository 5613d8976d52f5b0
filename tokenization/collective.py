# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Sums and lists over the processes that hold parts of one catalog, by accelerate."""

from __future__ import annotations

import numpy as np
import torch


class OneProcess:
    """A catalog held by one process: sums and lists are what it has."""

    rank, size = 0, 1

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Elementwise sum over processes, same shape and dtype."""
        return values

    def concatenate(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n_rank, ...) of all processes, in the order of their ranks."""
        return rows

    def own(self, count: int) -> slice:
        """Where this process's `count` rows lie among those of all processes."""
        start = int(self.concatenate(np.array([count]))[: self.rank].sum())
        return slice(start, start + count)


ALONE = OneProcess()


class ManyProcesses(OneProcess):
    """One process of a group started by `accelerate launch` or torchrun, each with its part of the catalog."""

    def __init__(self) -> None:
        from accelerate import PartialState

        self.state = PartialState(cpu=not torch.cuda.is_available())
        self.rank, self.size = self.state.process_index, self.state.num_processes

    def sum(self, values: np.ndarray) -> np.ndarray:
        from accelerate.utils import reduce

        if self.size == 1:
            return values
        # A copy: the reduction writes into the tensor it is given.
        return reduce(torch.tensor(values, device=self.state.device), "sum").cpu().numpy()

    def concatenate(self, rows: np.ndarray) -> np.ndarray:
        from accelerate.utils import gather

        if self.size == 1:
            return rows
        counts = gather(torch.tensor([len(rows)], device=self.state.device)).tolist()
        padded = torch.zeros((max(counts), *rows.shape[1:]), dtype=torch.from_numpy(rows[:0]).dtype)
        padded[: len(rows)] = torch.from_numpy(np.ascontiguousarray(rows))
        parts = gather(padded.to(self.state.device)).cpu().split(max(counts)) if max(counts) else [padded]
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=False)]).numpy()

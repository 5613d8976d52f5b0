# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The key/value cache of a beam search: parent indices instead of copied caches.

Shapes: B batch, W rows (beams) of a request, n SID levels decoded so far, G key/value groups, D head dimension.
"""

import torch


class BeamCache:
    """Self-attention keys and values of the levels already decoded, one entry a row of that level.

    Beams are never copied: when rows are chosen, only the indices of their ancestors are, and the keys of earlier
    levels are read through them.
    """

    def __init__(self) -> None:
        self.levels: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.ancestors: list[torch.Tensor] = []
        self.path_sum: torch.Tensor | None = None

    def descend(self, parents: torch.Tensor, rows: int) -> None:
        """Makes the rows of the next level children of `parents` (int64, (B, W)), each one of the `rows` that its
        request has at the current level."""
        batch = torch.arange(parents.shape[0], device=parents.device).unsqueeze(1)
        parents = (parents + batch * rows).flatten()  # places among the rows of all requests
        self.ancestors = [earlier.index_select(0, parents) for earlier in self.ancestors] + [parents]

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends this level's (B * W, G, D) and returns all levels', (B * W, n, G, D)."""
        levels = self.levels.setdefault(layer_idx, [])
        levels.append((key, value))

        def along_path(which: int) -> torch.Tensor:
            earlier = zip(levels[:-1], self.ancestors, strict=True)
            path = [level[which].index_select(0, rows) for level, rows in earlier]
            return torch.stack([*path, levels[-1][which]], dim=1)

        return along_path(0), along_path(1)

    def sum_along_path(self, vectors: torch.Tensor) -> torch.Tensor:
        """This level's vectors (B, W, 1, d) plus those of all earlier levels along each row's path, in that shape."""
        if self.path_sum is not None:
            vectors = vectors + self.path_sum.index_select(0, self.ancestors[-1]).view(vectors.shape)
        self.path_sum = vectors.flatten(0, 2)
        return vectors


__all__ = ["BeamCache"]

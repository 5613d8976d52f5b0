# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The key/value cache of a beam search: parent indices instead of copied caches.

Shapes: B batch, W beams, G key/value groups, D head dimension.
"""

import torch


class BeamCache:
    """Self-attention keys and values of the levels already decoded, one entry a row of that level.

    Beams are never copied: when rows are chosen, only the indices of their ancestors are, and the keys of earlier
    levels are gathered through them.
    """

    def __init__(self) -> None:
        self.levels: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.ancestors: list[torch.Tensor] = []

    def descend(self, parents: torch.Tensor) -> None:
        """Makes the rows of the next level children of `parents` (int64, (B, W)), indices into the current rows."""
        self.ancestors = [rows.gather(1, parents) for rows in self.ancestors] + [parents]

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends this level's (B, W, 1, G, D) and returns all levels', (B, W, levels so far, G, D)."""
        levels = self.levels.setdefault(layer_idx, [])
        levels.append((key, value))

        def along_path(which: int, own: torch.Tensor) -> torch.Tensor:
            past = [
                level[which].gather(1, rows[:, :, None, None, None].expand(-1, -1, 1, *own.shape[3:]))
                for level, rows in zip(levels[:-1], self.ancestors, strict=True)
            ]
            return torch.cat([*past, own], dim=2)

        return along_path(0, key), along_path(1, value)


__all__ = ["BeamCache"]

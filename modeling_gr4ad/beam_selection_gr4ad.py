# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How many beams a level keeps, and which.

Shapes: B batch, W rows (beams), M children of a row, T SID levels.
"""

from collections.abc import Sequence

import torch


def best_children(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best `width` of all children, in two steps: each row's best `width` first, side by side, then the best of
    those. Exact: no row can place more than `width` (the paper's top-k pre-cut).

    Args:
        scores (float, (B, W, M)): Of M children of each of W rows.

    Returns:
        Scores, rows and children, each (B, k) with k = min(width, W * M), best first.
    """
    rows, children = scores.shape[1:]
    if children <= width:  # the first step would keep all
        best, flat = scores.flatten(1).topk(min(width, rows * children), dim=-1)
        return best, flat // children, flat % children
    row_best, places = scores.topk(width, dim=-1)
    best, flat = row_best.flatten(1).topk(width, dim=-1)
    return best, flat // width, places.flatten(1).gather(1, flat)


def width_table(beam_widths: Sequence[int] | Sequence[Sequence[int]], batch: int, levels: int) -> list[list[int]]:
    """One line of T widths for each of `batch` requests.

    Raises:
        ValueError: If there are not T widths >= 1, or neither one line nor one a request.
    """
    alike = not isinstance(beam_widths[0], Sequence)
    lines: list[list[int]] = [list(line) for line in ([beam_widths] if alike else beam_widths)]
    for line in lines:
        if len(line) != levels or min(line) < 1:
            raise ValueError(f"`beam_widths` needs {levels} widths >= 1, one a level. Received: {line}.")
    if len(lines) not in (1, batch):
        raise ValueError(
            f"`beam_widths` needs one line of widths, or one for each of the {batch} requests. Received: {len(lines)}."
        )
    return lines


__all__ = ["best_children", "width_table"]

# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How many beams a level keeps, and which.

Shapes: B batch, W rows (beams), M children of a row, T SID levels.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import cast

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


def next_beams(
    children: tuple[torch.Tensor, torch.Tensor],
    scores: torch.Tensor,
    width: int,
    limits: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best `width` children in the trie of the rows of a level.

    Args:
        children: Their codes (int64, (B, W, M)), and the first child of each row (int64, (B, W, 1)), as
            `SIDTrie.children` gives them.
        scores (float, (B, W, M)): Of the children, -inf where there is none that the request may enter.
        limits (int64, (B,), *optional*): How many of the `width` rows each request may use.

    Returns:
        Scores, parent rows, codes, nodes of the next level, and places among the W * M children, each (B, k), best
        first. A dead row, which holds no SID, scores -inf and goes on from the first node, which exists: what it
        computes is not used.
    """
    codes, first = children
    scores, rows, chosen = best_children(scores, width)
    dead = ~(scores > -torch.inf)  # a NaN too: after an overflow in half precision no child is known to exist
    if limits is not None:
        dead = dead | (torch.arange(scores.shape[1], device=scores.device) >= limits.unsqueeze(1))
    places = rows * codes.shape[-1] + chosen
    codes = codes.flatten(1).gather(1, places)
    nodes = (first.squeeze(-1).gather(1, rows) + chosen).masked_fill(dead, 0)
    return scores.masked_fill(dead, -torch.inf), rows, codes, nodes, places


def open_children(scores: torch.Tensor, first: torch.Tensor, closed: torch.Tensor | None) -> torch.Tensor:
    """scores (float, (B, W, M)) with -inf for the children that are `closed` (bool, (B, nodes of their level and M
    more)) to a request; `first` (int64, (B, W, 1)) are the first children."""
    if closed is None:
        return scores
    places = (first + torch.arange(scores.shape[2], device=first.device)).flatten(1)
    return scores.masked_fill(closed.gather(1, places).view_as(scores), -torch.inf)


def width_table(beam_widths: Sequence[int] | Sequence[Sequence[int]], batch: int, levels: int) -> list[list[int]]:
    """One line of T widths for each of `batch` requests.

    Raises:
        ValueError: If there are not T widths >= 1, or neither one line nor one a request.
    """
    if isinstance(beam_widths, int | float | str) or not len(beam_widths):
        raise ValueError(
            f"`beam_widths` needs a list of {levels} widths >= 1, one a level. Received: {beam_widths!r:.100}. Write "
            f"e.g. {[beam_widths if type(beam_widths) is int else 64] * levels}."
        )
    given = [beam_widths] if not isinstance(beam_widths[0], Sequence) else beam_widths
    lines = [list(cast(Sequence[int], line)) for line in given]
    for line in lines:
        if len(line) != levels or not all(isinstance(width, Integral) and width >= 1 for width in line):
            raise ValueError(f"`beam_widths` needs {levels} widths >= 1, one a level. Received: {line}.")
    if len(lines) not in (1, batch):
        raise ValueError(
            f"`beam_widths` needs one line of widths, or one for each of the {batch} requests. Received: {len(lines)}."
        )
    return lines


def beam_rows(
    beam_widths: Sequence[int] | Sequence[Sequence[int]], batch: int, levels: int, device: torch.device
) -> tuple[tuple[int, ...], torch.Tensor | None]:
    """Rows that each level computes, and how many of them each request may use (int64, (B, T)), None = all; of
    widths as `width_table` takes them."""
    lines = width_table(beam_widths, batch, levels)
    widths = tuple(map(max, zip(*lines, strict=True)))
    mixed = any(line != lines[0] for line in lines)
    return widths, torch.tensor(lines, device=device) if mixed else None


__all__ = ["beam_rows", "best_children", "next_beams", "open_children", "width_table"]

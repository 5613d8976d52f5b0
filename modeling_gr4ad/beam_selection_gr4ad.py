# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How many beams a level keeps, and which.

Shapes: B batch, W rows (beams), M children of a row, T SID levels.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import cast

import torch

from .trie_gr4ad import SIDTrie


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
    trie: SIDTrie,
    level: int,
    nodes: torch.Tensor,
    scores: torch.Tensor,
    log_probs: torch.Tensor,
    width: int,
    limits: torch.Tensor | None = None,
    closed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best `width` children in the trie of the rows of a level.

    Args:
        nodes (int64, (B, W)), scores (float, (B, W)): The rows: their nodes of `level`, and log-probabilities so far.
        log_probs (float, (B, W, V_t)): Of all codes of the level after each row.
        limits (int64, (B,), *optional*): How many of the `width` rows each request may use.
        closed (bool, (B, len(trie.codes[level])), *optional*): Nodes that each request may not enter.

    Returns:
        Scores, parent rows, codes and nodes of the next level, each (B, k), best first. A dead row, which holds no
        SID, scores -inf and goes on from the first node, which exists: what it computes is not used.
    """
    steps, codes, first = trie.restrict(level, nodes, log_probs, closed)  # (B, W, M)
    scores, rows, children = best_children(scores.unsqueeze(-1) + steps, width)
    dead = ~(scores > -torch.inf)  # a NaN too: after an overflow in half precision no child is known to exist
    if limits is not None:
        dead = dead | (torch.arange(scores.shape[1], device=scores.device) >= limits.unsqueeze(1))
    codes = codes.flatten(1).gather(1, rows * codes.shape[-1] + children)
    nodes = (first.squeeze(-1).gather(1, rows) + children).masked_fill(dead, 0)
    return scores.masked_fill(dead, -torch.inf), rows, codes, nodes


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


__all__ = ["beam_rows", "best_children", "next_beams", "width_table"]

# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""From the item table to the constraint of the beam search."""

from __future__ import annotations

import torch

from gr4ad.modeling_gr4ad import SIDTrie

from .sid_index import SIDIndex


def export_trie(index: SIDIndex, device: torch.device | str = "cpu") -> SIDTrie:
    """Trie of the SIDs of the active items of an index; its leaves hold their rows, best rank first.

    The trie does not follow later changes of the index: export it again.

    Args:
        index: What may be served. device: Where the trie's tensors (int64) go.

    Raises:
        ValueError: If no item is active: a beam search would have nothing to find.
    """
    rows = index.rows_by_sid()
    if not len(rows):
        raise ValueError(
            f"The index of {len(index)} items has no active item, so nothing can be served. Add items to it "
            "(`SIDIndex.add`; removed ones come back the same way), or keep at least one."
        )
    return SIDTrie.from_codes(torch.from_numpy(index.codes[rows]), torch.from_numpy(rows.copy())).to(device)


__all__ = ["export_trie"]

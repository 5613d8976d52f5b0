"""The stated rule for ties: a stable hash of the item id, never the order in which items happen to be stored."""

from collections.abc import Sequence

import numpy as np
import xxhash


def tie_order(item_ids: Sequence[str]) -> np.ndarray:
    """Order in which items of equal score are ranked.

    Catalog files are often sorted by popularity or by first appearance in the log, so breaking ties by row leaks
    the future into a ranking. The order here depends on the id strings alone (XXH3, 64 bits; the string itself when
    two hashes are equal): it is the same for every row order, machine and release.

    Args:
        item_ids: N distinct ids.

    Returns:
        int64 (N,), a permutation: `item_ids[tie_order[0]]` wins every tie.
    """
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(item.encode()) for item in item_ids), np.uint64, len(item_ids))
    return np.lexsort((np.asarray(item_ids, dtype=str), hashes)).astype(np.int64)

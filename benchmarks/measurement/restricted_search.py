# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What block lists, allow lists and limits of accounts cost beside a search without them: rows of `decode.py`.

`masks` is the time to make a restriction of a list, `search` that of the search behind it. In the list with a limit an
account may have one ad: the first search leaves it short, and others follow until it is full; `searches` counts all.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights, TrieRestriction

FREE = "search without lists"


def restriction_rows(
    work: Any,
    model: GR4ADForRecommendation,
    widths: Sequence[int],
    listed: Sequence[int],
    accounts: int,
    length: int,
    seed: int,
) -> None:
    """Adds the rows to the workload of `decode.py`.

    Args:
        widths: T beam widths. listed: Ads of the block and allow lists. accounts: Of all ads. length: Ads of the list
            with a limit, fewer than accounts.
    """
    rng, sids = np.random.default_rng(seed), work.trie.num_sids
    systems: dict[str, Callable] = {FREE: work.request(model.beam_search, widths)}
    for count, kind in itertools.product(listed, ("blocked", "allowed")):
        rows = torch.from_numpy(rng.choice(sids, count, replace=False)).to(work.device)
        make = partial(TrieRestriction.from_items, work.trie, 1, **{kind: [rows]})
        systems[f"masks of {count} ads {kind}"] = make
        systems[f"search with {count} ads {kind}"] = work.request(model.beam_search, widths, restriction=make())
    ids = work.history()
    weights = RankingWeights(tuple(widths))
    ranked = partial(model.recommend, ids, torch.ones_like(ids), trie=work.trie, top_k=length, weights=weights)
    groups = torch.from_numpy(rng.integers(0, accounts, sids)).to(work.device)
    limited = partial(ranked, item_groups=groups, max_per_group=1)
    name = f"list of {length} ads, one of each of {accounts} accounts"
    systems |= {f"list of {length} ads": ranked, name: limited}
    times = work.in_turns(systems)
    for system, values in times.items():
        work.add(system, "time", values, "ms")
        if system.startswith("search with "):
            both = values + times[system.replace("search with", "masks of")]
            work.add(system, f"time with its masks over that of a {FREE}", both / times[FREE], "x")
    work.add(name, "time over that without a limit", times[name] / times[f"list of {length} ads"], "x")
    with patch.object(model, "decode_levels", side_effect=model.decode_levels) as search:
        found = int((limited().items >= 0).sum())
    if found < length:
        raise SystemExit(f"A {name} should be full. Received: {found}.")
    work.add(name, "searches", len(search.call_args_list), "")

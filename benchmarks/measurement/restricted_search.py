# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What block lists, allow lists and limits of accounts cost beside a search without them: rows of `decode.py`.

`masks` is the time to make a restriction of a list, `search` that of the search behind it. In the list with a limit an
account may have one ad: where the first search leaves it short, others follow until it is full; `searches` counts all.
Times are CPU time, except on a GPU.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights, TrieRestriction
from measurement.timing import cpu_milliseconds, interleaved, milliseconds

FREE = "search without lists"
TURNS = 3
"""Rounds of this part for one of the others: its requests are short."""


def restriction_rows(
    work: Any,
    model: GR4ADForRecommendation,
    widths: Sequence[int],
    listed: Sequence[int],
    accounts: Sequence[int],
    length: int,
) -> dict[str, float]:
    """Adds the rows to the workload of `decode.py`.

    Args:
        widths: T beam widths. listed: Ads of the block and allow lists. accounts: Numbers of accounts of all ads.
            length: Ads of the list with a limit, fewer than accounts.

    Returns:
        The ratios that sum them up, by name.
    """
    rng, sids = np.random.default_rng(0), work.trie.num_sids
    systems: dict[str, Callable] = {FREE: work.request(model.beam_search, widths)}
    for count, kind in itertools.product(listed, ("blocked", "allowed")):
        rows = torch.from_numpy(rng.choice(sids, count, replace=False)).to(work.device)
        make = partial(TrieRestriction.from_items, work.trie, 1, **{kind: [rows]})
        systems[f"masks of {count} ads {kind}"] = make
        systems[f"search with {count} ads {kind}"] = work.request(model.beam_search, widths, restriction=make())
    ids = work.history()
    weights = RankingWeights(tuple(widths))
    ranked = partial(model.recommend, ids, torch.ones_like(ids), trie=work.trie, top_k=length, weights=weights)
    plain = f"list of {length} ads"
    systems[plain] = ranked
    limited: dict[str, Callable] = {}
    for count in accounts:
        groups = torch.from_numpy(rng.integers(0, count, sids)).to(work.device)
        limited[f"{plain}, one of each of {count} accounts"] = partial(ranked, item_groups=groups, max_per_group=1)
    clock = cpu_milliseconds if work.device.type == "cpu" else milliseconds
    turns = {name: partial(clock, call) for name, call in {**systems, **limited}.items()}
    times = interleaved(turns, TURNS * work.repeats)
    ratios: dict[str, float] = {}
    for system, values in times.items():
        work.add(system, "time", values, "ms")
        over = None
        if system.startswith("search with "):
            masks = times[system.replace("search with", "masks of")]
            work.add(system, "over a search without lists", values / times[FREE], "x")
            over = (values + masks) / times[FREE]
            work.add(system, "with its masks, over a search without lists", over, "x")
        elif system in limited:
            over = values / times[plain]
            work.add(system, "over a list without a limit", over, "x")
        if over is not None:
            ratios[f"time_{system.replace(', ', '_').replace(' ', '_')}"] = float(np.median(over))
    for system, call in limited.items():
        with patch.object(model, "decode_levels", side_effect=model.decode_levels) as search:
            found = int((call().items >= 0).sum())
        if found < length:
            raise SystemExit(f"A {system} should be full. Received: {found}.")
        work.add(system, "searches", len(search.call_args_list), "")
    return ratios

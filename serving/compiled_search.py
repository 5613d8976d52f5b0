# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The beam search of a recommender as graphs of `torch.compile`, all made before they are needed."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.modeling_gr4ad.item_ranking_gr4ad import NEW_CANDIDATES

from .recommender import Recommender

logger = logging.getLogger(__name__)

MAX_GRAPHS = 32  # torch gives up at 8 of one function
IN_TRAFFIC = "eager_on_recompile"  # stance towards what fits no graph


def compile_search(
    recommender: Recommender, widths: Sequence[Sequence[int]], max_batch: int, *, backend: str = "inductor"
) -> None:
    """Compiles the search of a recommender, in place, for the widths and batches that it will be asked for.

    Sizes are symbols in a graph: one serves every length of a history, every batch of several requests, and every
    index. There is another one for single requests, one more where a level's width is above the children that a node
    of the trie has and was below, and one of each for the candidates that new ads bring. Each takes a minute or two,
    or seconds where torch finds it in its cache on disk; weights that take the place of others find those of this
    process. What later fits no graph runs without (histories of one item, widths of one request beside those of
    another): to compile in the middle of traffic would stop it.

    Args:
        widths: Lines of T beam widths, e.g. of every scale of a [`BeamPolicy`].
        max_batch: Users of one call, at most.
        backend: As of `torch.compile`.

    Raises:
        ValueError: If int8 layers are to be compiled, or there is no C++ compiler for the CPU.
    """
    model = recommender.model
    if any(isinstance(module, torch.ao.nn.quantized.dynamic.Linear) for module in model.modules()):
        raise ValueError("int8 layers cannot be compiled. Take another `dtype`, or leave `compile` out.")
    if backend == "inductor" and model.device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise ValueError(
                f"`compile` needs a C++ compiler on the CPU, and there is no {compiler!r}. Install g++, name another "
                "in the environment variable CXX, or leave `compile` out."
            )
    begun = time.perf_counter()
    compiled = torch.compile(model.decode_levels, dynamic=True, fullgraph=True, backend=backend)
    model.decode_levels = compiled
    items = [str(recommender.tokenizer.index.item_ids[0])] * 2  # one item would be a size of its own
    # Two sizes that are equal in a warm-up call are not the same size.
    apart = torch.fx.experimental._config.patch(use_duck_shape=False)  # type: ignore[attr-defined]
    with apart, torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS):
        for weights in known_weights(recommender):
            served = Recommender(model, recommender.tokenizer, weights, recommender.name)
            for size in sorted({1, max_batch}):
                for line in widths:
                    served.recommend([items] * size, top_k=1, beam_widths=list(line))

    def search(*args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance(IN_TRAFFIC):
            return compiled(*args, **kwargs)

    model.decode_levels = search
    logger.info("Compiled the search in %.0f s.", time.perf_counter() - begun)


def known_weights(recommender: Recommender) -> list[RankingWeights]:
    """How the recommender ranks, and, where that is without candidates beside the beams, how it will once ads have
    been added, of which the likeliest join the beams."""
    weights = recommender.weights
    alone = not (weights.score_history or weights.item_candidates)
    if alone and weights.item_weight and recommender.model.item_head is not None:
        return [weights, replace(weights, item_candidates=NEW_CANDIDATES)]
    return [weights]

"""This server beside transformers' `generate` behind the same server, and what each part of the design is worth.

    python benchmarks/serving.py --out benchmarks/results/serving.json

Random weights, equal parameters, a trie of random semantic IDs. One HTTP server, its micro-batches, its client and its
requests for all; what differs is who answers a batch. `generate` is a Llama with `prefix_allowed_tokens_fn`, as its
users decode semantic IDs, one position for an item of the history. A burst of requests is answered by each system in
turns; a round's throughput is its requests over the seconds until the last answer. Then the paper's table 3 by its
shape: each part of the design changed alone.
"""

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from measurement.random_artifact import random_artifact, random_tokenizer
from measurement.results import Benchmark, Row, result_row
from measurement.server_process import random_bodies, requests_per_second
from measurement.timing import interleaved
from opponents.transformers_beams import allowed_tokens, generate, llama, prefill_once, with_parameters

from gr4ad import Recommender
from gr4ad.modeling_gr4ad import beam_selection_gr4ad
from gr4ad.modeling_gr4ad.layers_gr4ad import GR4ADCrossAttention
from gr4ad.serving import Recommendation, ServerConfig, create_app
from gr4ad.serving.compiled_search import compile_search
from gr4ad.serving.http_server import RecommendServer
from gr4ad.serving.precision import quantize_layers
from gr4ad.serving.request_types import RecommendQuery

TOP_K = 10
FULL = {"codebooks": [1024, 256, 64], "ads": 100_000, "hidden": 256, "layers": 6, "parallel": 4, "history": 50}
SMOKE = {"codebooks": [16, 8, 8], "ads": 300, "hidden": 32, "layers": 3, "parallel": 2, "history": 5}


class GenerateRecommender(Recommender):
    """Answers with `generate` of a Llama, one user after another: it knows no batch of several histories with an
    allowed-tokens function of its own for each at less."""

    def serve_with(self, search: Callable) -> "GenerateRecommender":
        self.search = search
        tokens = torch.from_numpy(self.tokenizer.index.codes[self.tokenizer.index.rows_by_sid()].copy())
        sids = tokens + torch.tensor(self.model.config.level_offsets)
        self.allowed = allowed_tokens(sids)
        count = sum(parameter.numel() for parameter in self.model.parameters())
        self.llama = with_parameters(llama, self.model.config, count).eval()
        return self

    @torch.no_grad()
    def rank(self, queries: Sequence[RecommendQuery]) -> list[list[Recommendation]]:
        levels = self.tokenizer.num_levels
        lists = []
        for query in queries:
            prompt = torch.from_numpy(self.tokenizer.encode_items(query.user.items))[:, 0].unsqueeze(0)
            beams = (query.beam_widths or self.beam_widths)[-1]
            found = self.search(self.llama, prompt, self.allowed, beams=beams, levels=levels)
            items = [names[0] for names in self.tokenizer.decode_items(found[:, -levels:].tolist())[: query.top_k]]
            lists.append([Recommendation(item, 0.0, None, "", {}) for item in items])
        return lists


def built(size: dict, parallel: int, kind: type[Recommender] = Recommender) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        artifact = random_artifact(
            Path(folder), random_tokenizer(size["codebooks"], size["ads"]), beam_widths=[128] * 3,
            hidden_size=size["hidden"], intermediate_size=3 * size["hidden"], num_hidden_layers=size["layers"],
            num_parallel_layers=parallel, max_context_items=size["history"],
        )  # fmt: skip
        return kind.from_pretrained(artifact)


@contextmanager
def served(recommender: Recommender, **options: Any) -> Iterator[str]:
    config = ServerConfig(port=0, max_queue=4096, deadline_ms=600_000.0, max_beam_width=1024, **options)
    server = RecommendServer(create_app(recommender, config), config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while server.port is None and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass(frozen=True)
class System:
    """A server to be asked. repeated: share of its requests that it has answered before; changed: what is changed
    in this process while it answers."""

    url: str
    requests: int
    repeated: float = 0.0
    changed: Callable[[], AbstractContextManager] = nullcontext


def throughputs(systems: dict[str, System], size: dict, beams: int, rounds: int) -> dict[str, np.ndarray]:
    turns: Counter[str] = Counter()

    def burst(name: str, system: System) -> float:
        number, levels = turns[name], len(size["codebooks"])
        requests = system.requests if number else min(system.requests, 16)  # the first warms up
        bodies = random_bodies(size["ads"], size["history"], requests, beams, levels, top_k=TOP_K, seed=number)
        turns[name] += 1
        with system.changed():
            if number and (before := round(requests * system.repeated)):
                requests_per_second(system.url, bodies[:before])
            return requests_per_second(system.url, bodies)

    return interleaved({name: partial(burst, name, system) for name, system in systems.items()}, rounds)


def plain_children(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`best_children` without its pre-cut: one top-k of all children of all rows."""
    rows, children = scores.shape[1:]
    best, flat = scores.flatten(1).topk(min(width, rows * children), dim=-1)
    return best, flat // children, flat % children


def attend_to_copies(self: GR4ADCrossAttention, hidden: torch.Tensor, context: Any, **kwargs: Any) -> Any:
    """The `forward` of cross-attention where every beam reads a copy of the context's keys and values, as it is with a
    cache that is reordered with its beams."""
    batch, rows, positions, width = hidden.shape
    kv_set = self.layer_idx * self.config.num_context_kv // self.config.num_hidden_layers
    own = (part.repeat_interleave(rows, dim=0) for part in (
        context.key_states[kv_set], context.value_states[kv_set], context.mask
    ))  # fmt: skip
    attended, weights = self.attend(hidden.reshape(batch * rows, positions, width), *own, **kwargs)
    return attended.view(batch, rows, positions, width), weights


def in_int8(recommender: Recommender) -> Recommender:
    quantize_layers(recommender.model)
    return recommender


def compiled(recommender: Recommender, widths: list[int]) -> Recommender:
    compile_search(recommender, [widths], ServerConfig().max_batch)
    return recommender


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take(rounds=3, beams=[128, 256, 512])
    benchmark.add_argument("--parts", nargs="+", help="Only these, beside `as it is`, and no `generate`.")
    arguments = benchmark.start(words, rounds=1, beams=[4])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    size = SMOKE if arguments.smoke else FULL
    requests, few = (8, 2) if arguments.smoke else (48, 2)
    rows: list[Row] = []
    ratios: dict[str, float] = {}

    def note(found: dict[str, np.ndarray], beams: int, reference: str) -> None:
        for name, values in found.items():
            ends = [values.min(), values.max()]
            rows.append(result_row(f"{name}, {beams} beams", "throughput", np.median(values), "requests/s", ends))
            ratios[f"{name}_{beams}"] = float(np.median(found[reference]) / np.median(values))

    native = built(size, size["parallel"])
    for beams in [] if arguments.parts else arguments.beams:
        with ExitStack() as stack:
            urls = {"native": stack.enter_context(served(native))}
            for name, search in (("generate", generate), ("generate after one prefill", prefill_once)):
                opponent = built(size, size["parallel"], GenerateRecommender).serve_with(search)
                urls[name] = stack.enter_context(served(opponent))
            systems = {name: System(url, requests if name == "native" else few) for name, url in urls.items()}
            note(throughputs(systems, size, beams, arguments.rounds), beams, "native")
    if not arguments.parts:
        ratios |= {f"speedup_vs_hf_server_{beams}": ratios[f"generate_{beams}"] for beams in arguments.beams}
        ratios["speedup_vs_hf_server"] = ratios[f"generate_{arguments.beams[0]}"]

    beams = arguments.beams[-1]
    no_pre_cut = partial(mock.patch.object, beam_selection_gr4ad, "best_children", plain_children)
    no_shared_context = partial(mock.patch.object, GR4ADCrossAttention, "forward", attend_to_copies)
    parts: dict[str, tuple[Callable[[], Recommender], dict, dict]] = {
        "as it is": (lambda: native, {}, {}),
        "without LazyAR (K = 0)": (lambda: built(size, 0), {}, {}),
        "without shared context KV": (lambda: native, {}, {"changed": no_shared_context}),
        "without top-k pre-cut": (lambda: native, {}, {"changed": no_pre_cut}),
        "without micro-batching": (lambda: native, {"max_batch": 1, "max_wait_ms": 0.0}, {}),
        "with int8 layers": (lambda: in_int8(built(size, size["parallel"])), {}, {}),
        "with result cache, 27.8% repeated": (lambda: native, {"cache_seconds": 600.0}, {"repeated": 0.278}),
        "compiled": (lambda: compiled(built(size, size["parallel"]), [beams] * len(size["codebooks"])), {}, {}),
    }
    default = [name for name in parts if name != "compiled" or not arguments.smoke]
    chosen = {"as it is", *benchmark.one_of("part", parts, arguments.parts or default)}
    with ExitStack() as stack:
        systems = {
            name: System(stack.enter_context(served(model(), **options)), requests, **how)
            for name, (model, options, how) in parts.items()
            if name in chosen
        }
        found = throughputs(systems, size, beams, arguments.rounds)
    note(found, beams, "as it is")
    benchmark.write(arguments, rows, ratios, size={**size, "requests": requests, "requests of generate": few})


if __name__ == "__main__":
    main()

"""This server beside transformers' `generate` behind the same server, and what each part of the design is worth.

    python benchmarks/serving.py --out benchmarks/results/serving.json

Random weights, equal parameters, a trie of random semantic IDs. One HTTP server, its micro-batches, its client and its
requests for all; what differs is who answers a batch. `generate` is a Llama with `prefix_allowed_tokens_fn`, as its
users decode semantic IDs, one position for an item of the history. A burst of requests is answered by each system in
turns; a round's throughput is its requests over the seconds until the last answer. Then the paper's table 3 by its
shape: each part of the design changed alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from decode_baselines import allowed_tokens, generate, llama, prefill_once, with_parameters
from transformers import GenerationConfig, set_seed

from gr4ad import GR4ADConfig, GR4ADForRecommendation, Recommender, SIDIndex, UASIDTokenizer
from gr4ad.modeling_gr4ad import beam_selection_gr4ad
from gr4ad.modeling_gr4ad.layers_gr4ad import GR4ADCrossAttention
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json
from gr4ad.serving import Recommendation, ServerConfig, create_app
from gr4ad.serving.compiled_search import compile_search
from gr4ad.serving.http_server import RecommendServer
from gr4ad.serving.load_test import run_load
from gr4ad.serving.precision import quantize_layers

TOP_K = 10
FULL = {"codebooks": [1024, 256, 64], "ads": 100_000, "hidden": 256, "layers": 6, "parallel": 4, "history": 50}
SMOKE = {"codebooks": [16, 8, 8], "ads": 300, "hidden": 32, "layers": 3, "parallel": 2, "history": 5}


class GenerateRecommender(Recommender):
    """Answers with `generate` of a Llama, one user after another: it knows no batch of several histories with an
    allowed-tokens function of its own for each at less."""

    def serve_with(self, search: Any) -> GenerateRecommender:
        self.search = search
        tokens = torch.from_numpy(self.tokenizer.index.codes[self.tokenizer.index.rows_by_sid()].copy())
        sids = tokens + torch.tensor(self.model.config.level_offsets)
        self.allowed = allowed_tokens(sids)
        count = sum(parameter.numel() for parameter in self.model.parameters())
        self.llama = with_parameters(llama, self.model.config, count).eval()
        return self

    @torch.no_grad()
    def recommend(self, histories, *, top_k, beam_widths, **unused):  # type: ignore[override]
        levels = self.tokenizer.num_levels
        lists = []
        for history, length, widths in zip(histories, top_k, beam_widths, strict=True):
            prompt = torch.from_numpy(self.tokenizer.encode_items(history))[:, 0].unsqueeze(0)
            found = self.search(self.llama, prompt, self.allowed, beams=widths[-1], levels=levels)
            items = [names[0] for names in self.tokenizer.decode_items(found[:, -levels:].tolist())[:length]]
            lists.append([Recommendation(item, 0.0, None, "", {}) for item in items])
        return lists


def built(size: dict, parallel: int, kind: type[Recommender] = Recommender, seed: int = 0) -> Any:
    """A recommender of random weights for random ads."""
    rng = np.random.default_rng(seed)
    space = int(np.prod(size["codebooks"]))
    keys = rng.choice(space, size["ads"], replace=False)
    index = SIDIndex(
        [f"ad_{n}" for n in range(size["ads"])], np.stack(np.unravel_index(keys, size["codebooks"]), axis=1)
    )
    set_seed(seed)
    config = GR4ADConfig(
        codebook_sizes=size["codebooks"],
        hidden_size=size["hidden"],
        intermediate_size=3 * size["hidden"],
        num_hidden_layers=size["layers"],
        num_parallel_layers=parallel,
        max_context_items=size["history"],
    )
    generation = GenerationConfig(
        beam_widths=[128] * 3, item_weight=0.0, item_candidates=0, value_weight=0.0, score_history=False,
        exclude_history=False,
    )  # fmt: skip
    tokenizer = UASIDTokenizer(codebook_sizes=size["codebooks"])
    tokenizer.index = index
    return kind(GR4ADForRecommendation(config), tokenizer, generation, name="bench")


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


def burst(url: str, size: dict, requests: int, beams: int, repeated: float, seed: int) -> float:
    """Requests a second; `repeated` is the share that was asked and answered before."""
    rng = np.random.default_rng(seed)
    bodies = [
        {"history": [f"ad_{n}" for n in rng.integers(0, size["ads"], size["history"])], "top_k": min(TOP_K, beams),
         "beam_widths": [beams] * len(size["codebooks"])}
        for _ in range(requests)
    ]  # fmt: skip
    arrivals = np.zeros(requests)
    if repeated:
        before = round(requests * repeated)
        asyncio.run(run_load(url, bodies[:before], arrivals[:before], timeout=600.0))
    begun = time.perf_counter()
    outcomes = asyncio.run(run_load(url, bodies, arrivals, timeout=600.0))
    seconds = time.perf_counter() - begun
    failed = [outcome.status for outcome in outcomes if outcome.status != 200]
    if failed:
        raise SystemExit(f"{len(failed)} of {requests} requests failed, the first with {failed[0]}.")
    return requests / seconds


@dataclass(frozen=True)
class System:
    """A server to be asked. repeated: share of its requests that it has answered before; changed: what is changed
    in this process while it answers."""

    url: str
    requests: int
    repeated: float = 0.0
    changed: Callable[[], AbstractContextManager] = nullcontext


def in_turns(systems: dict[str, System], size: dict, beams: int, rounds: int) -> dict[str, list[float]]:
    """Requests a second of each system in each round."""
    found: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(rounds + 1):  # the first, of a few requests, warms up
        for name, system in systems.items():
            requests = system.requests if number else min(system.requests, 16)
            with system.changed():
                speed = burst(system.url, size, requests, beams, system.repeated if number else 0.0, seed=number)
            if number:
                found[name].append(speed)
    return found


# --- parts of the design, left out
# --------------------------------------------------------------------------------------------------------------------


def plain_children(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`best_children` without its pre-cut: one top-k of all children of all rows."""
    rows, children = scores.shape[1:]
    best, flat = scores.flatten(1).topk(min(width, rows * children), dim=-1)
    return best, flat // children, flat % children


def without_pre_cut() -> AbstractContextManager:
    return mock.patch.object(beam_selection_gr4ad, "best_children", plain_children)


def attend_to_copies(self, hidden, context, **kwargs):  # the `forward` of cross-attention
    """Every beam reads a copy of the context's keys and values, as a cache that is reordered with its beams has it."""
    batch, rows, positions, width = hidden.shape
    kv_set = self.layer_idx * self.config.num_context_kv // self.config.num_hidden_layers
    own = (part.repeat_interleave(rows, dim=0) for part in (
        context.key_states[kv_set], context.value_states[kv_set], context.mask
    ))  # fmt: skip
    attended, weights = self.attend(hidden.reshape(batch * rows, positions, width), *own, **kwargs)
    return attended.view(batch, rows, positions, width), weights


def without_shared_context() -> AbstractContextManager:
    return mock.patch.object(GR4ADCrossAttention, "forward", attend_to_copies)


def in_int8(recommender: Recommender) -> Recommender:
    quantize_layers(recommender.model)
    return recommender


def compiled(recommender: Recommender, widths: list[int]) -> Recommender:
    compile_search(recommender, [widths], ServerConfig().max_batch)
    return recommender


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beams", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--parts", nargs="+", help="Only these, beside `as it is`, and no `generate`.")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    size = SMOKE if arguments.smoke else FULL
    requests, few = (8, 2) if arguments.smoke else (48, 2)
    if arguments.smoke:
        arguments.rounds, arguments.beams = 1, [4]
    rows: list[dict] = []
    ratios: dict[str, float] = {}

    def note(found: dict[str, list[float]], beams: int, reference: str) -> None:
        base = float(np.median(found[reference]))
        for name, values in found.items():
            label = f"{name}, {beams} beams"
            rows.append(
                {"name": label, "metric": "throughput", "value": round(float(np.median(values)), 3),
                 "spread": [round(min(values), 3), round(max(values), 3)], "unit": "requests/s"}
            )  # fmt: skip
            ratios[f"{name}_{beams}"] = round(base / float(np.median(values)), 3)
            print(label, np.round(values, 2), flush=True)  # noqa: T201

    native = built(size, size["parallel"])
    for beams in [] if arguments.parts else arguments.beams:
        with ExitStack() as stack:
            urls = {"native": stack.enter_context(served(native))}
            for name, search in (("generate", generate), ("generate after one prefill", prefill_once)):
                opponent = built(size, size["parallel"], GenerateRecommender).serve_with(search)
                urls[name] = stack.enter_context(served(opponent))
            systems = {name: System(url, requests if name == "native" else few) for name, url in urls.items()}
            note(in_turns(systems, size, beams, arguments.rounds), beams, "native")
    if not arguments.parts:
        ratios |= {f"speedup_vs_hf_server_{beams}": ratios[f"generate_{beams}"] for beams in arguments.beams}
        ratios["speedup_vs_hf_server"] = ratios[f"generate_{arguments.beams[0]}"]

    beams = arguments.beams[-1]
    parts: dict[str, tuple[Callable[[], Recommender], dict, dict]] = {
        "as it is": (lambda: native, {}, {}),
        "without LazyAR (K = 0)": (lambda: built(size, 0), {}, {}),
        "without shared context KV": (lambda: native, {}, {"changed": without_shared_context}),
        "without top-k pre-cut": (lambda: native, {}, {"changed": without_pre_cut}),
        "without micro-batching": (lambda: native, {"max_batch": 1, "max_wait_ms": 0.0}, {}),
        "with int8 layers": (lambda: in_int8(built(size, size["parallel"])), {}, {}),
        "with result cache, 27.8% repeated": (lambda: native, {"cache_seconds": 600.0}, {"repeated": 0.278}),
        "compiled": (lambda: compiled(built(size, size["parallel"]), [beams] * len(size["codebooks"])), {}, {}),
    }
    chosen = arguments.parts or [name for name in parts if name != "compiled" or not arguments.smoke]
    if unknown := [name for name in chosen if name not in parts]:
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(parts)}")
    with ExitStack() as stack:
        systems = {
            name: System(stack.enter_context(served(model(), **options)), requests, **how)
            for name, (model, options, how) in parts.items()
            if name in {"as it is", *chosen}
        }
        found = in_turns(systems, size, beams, arguments.rounds)
    note(found, beams, "as it is")
    result = {
        "command": " ".join(
            [
                "python benchmarks/serving.py --out FILE",
                *(["--parts"] if arguments.parts else []),
                *map(shlex.quote, arguments.parts or []),
            ]
        ),
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": [0],
        "size": {**size, "requests": requests, "requests of generate": few},
        "rows": rows,
        "ratios": ratios,
    }
    write_json(arguments.out, result)
    print(json.dumps(ratios, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()

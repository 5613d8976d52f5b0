"""gr4ad on vLLM beside vLLM's own beam search, and beside gr4ad's native engine.

    python benchmarks/vllm_beams.py --out benchmarks/results/vllm.json

One request at a time: a history of 100 items, three SID levels, the same number of beams at each, random weights.

- `gr4ad, native`: `Recommender.recommend` in this process.
- `gr4ad, vLLM`: the same artifact through `load_recommender(..., "vllm")`; both must first return the same ads.
- `Llama, vLLM`: `LLM.beam_search` of a Llama of as many layers, as wide and, by the size of its feed-forward layers,
  of equal parameters within 2%. Its prompt is one position an item (users of decoder-only models feed T tokens), its
  beams are unconstrained: a trie would only add to its time. Prefix caching is on, as vLLM's default is.

Each engine of vLLM runs in processes of its own, all alive at once. Every request has another history: nothing is
answered from a prefix cache across requests. A round takes all systems in turns; values are medians over rounds,
`spread` is the interquartile range, a ratio is the median of the rounds' ratios. `speedup` is of one request,
`throughput` of 16 at once, `native_vs_vllm` the time of those by gr4ad on vLLM over that by the native engine.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measurement.random_artifact import random_artifact, random_tokenizer
from measurement.results import Benchmark, result_row, rounds_row
from measurement.timing import interleaved, milliseconds, ratio
from opponents.transformers_beams import llama, with_parameters

from gr4ad import Recommender
from gr4ad.serving import load_recommender

KV_CACHE_BYTES = 2 << 30  # of Llama
BLOCK_TOKENS = 32  # the CPU build takes multiples of it
TOGETHER = 16  # requests
SIZES = {
    # codebooks, items, history items, hidden size, intermediate size, layers, parallel layers, beams
    False: ((4096, 1024, 256), 100_000, 100, 256, 1024, 4, 3, (128, 512)),
    True: ((64, 32, 16), 2_000, 10, 128, 256, 3, 2, (8, 16)),  # heads of 32: the least that the CPU build takes
}


def build_artifact(folder: Path, smoke: bool, seed: int) -> Recommender:
    codebooks, items, history, hidden, intermediate, layers, parallel, beams = SIZES[smoke]
    artifact = random_artifact(
        folder / "artifact", random_tokenizer(codebooks, items, seed=seed), beam_widths=[beams[0]] * len(codebooks),
        seed=seed, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_parallel_layers=parallel, max_context_items=history, initializer_range=0.1,
    )  # fmt: skip
    return Recommender.from_pretrained(artifact)


class Systems:
    """The three engines, and requests for them that never repeat."""

    def __init__(self, folder: Path, smoke: bool, seed: int, compiled: bool) -> None:
        from vllm import LLM

        self.native = build_artifact(folder, smoke, seed)
        self.history, self.beams = SIZES[smoke][2], SIZES[smoke][-1]
        self.rng = np.random.default_rng(seed + 1)
        self.levels = self.native.tokenizer.num_levels
        opponent = with_parameters(llama, self.native.model.config, self.native.model.num_parameters())
        self.parameters = {"gr4ad": self.native.model.num_parameters(), "Llama": opponent.num_parameters()}
        apart = abs(self.parameters["Llama"] / self.parameters["gr4ad"] - 1)
        if apart > 0.02:
            raise SystemExit(f"The models differ in parameters by {apart:.1%}, more than 2%: {self.parameters}.")
        opponent.save_pretrained(folder / "llama")
        self.vllm = load_recommender(folder / "artifact", "vllm")
        self.llama = LLM(
            str(folder / "llama"), tokenizer=str(folder / "artifact"), dtype="float32", enforce_eager=not compiled,
            max_model_len=-(-(self.history + self.levels + 1) // BLOCK_TOKENS) * BLOCK_TOKENS,
            max_logprobs=2 * max(self.beams), block_size=BLOCK_TOKENS, kv_cache_memory_bytes=KV_CACHE_BYTES,
        )  # fmt: skip

    def histories(self, count: int) -> list[list[str]]:
        ids = self.native.tokenizer.index.item_ids
        return [ids[self.rng.integers(0, len(ids), self.history)].tolist() for _ in range(count)]

    def gr4ad(self, engine: Any, histories: list[list[str]], beams: int) -> Any:
        return engine.recommend(histories, beam_widths=[beams] * self.levels, top_k=min(10, beams))

    def beam_search(self, histories: list[list[str]], beams: int) -> Any:
        from vllm.sampling_params import BeamSearchParams

        prompts = [
            {"prompt_token_ids": self.native.tokenizer.encode_items(history)[:, 0].tolist()} for history in histories
        ]
        params = BeamSearchParams(beam_width=beams, max_tokens=self.levels, ignore_eos=True)
        return self.llama.beam_search(prompts, params)

    def check(self) -> None:
        """Raises SystemExit unless both engines of gr4ad return the same ads, and Llama as many beams as asked for."""
        histories = self.histories(2)
        lists = [self.gr4ad(engine, histories, self.beams[0]) for engine in (self.native, self.vllm)]
        # Two scores that differ in the last digit may change places.
        native, served = ([{ad.item_id for ad in ads} for ads in ranked] for ranked in lists)
        if any(len(ours & theirs) < len(ours) - 1 for ours, theirs in zip(native, served, strict=True)):
            raise SystemExit("gr4ad on vLLM and the native engine return different ads.")
        found = self.beam_search(histories[:1], self.beams[0])[0].sequences
        if len({tuple(sequence.tokens[-self.levels :]) for sequence in found}) != self.beams[0]:
            raise SystemExit(f"vLLM's beam search returned {len(found)} sequences, not {self.beams[0]} distinct ones.")


def measure(systems: Systems, rounds: int) -> dict[tuple[str, int, int], np.ndarray]:
    """Milliseconds by (system, beams, requests at once), one a round."""

    def timed_search(search: Callable, count: int, beams: int) -> float:
        histories = systems.histories(count)
        return milliseconds(lambda: search(histories, beams))

    searches = {
        "gr4ad, native": partial(systems.gr4ad, systems.native),
        "gr4ad, vLLM": partial(systems.gr4ad, systems.vllm),
        "Llama, vLLM": systems.beam_search,
    }
    calls = {
        (name, beams, count): partial(timed_search, search, count, beams)
        for beams in systems.beams
        for count in (1, TOGETHER)
        for name, search in searches.items()
        # With the widest, a round of many of Llama's would take minutes.
        if name != "Llama, vLLM" or count == 1 or beams == systems.beams[0]
    }
    return interleaved(calls, rounds)


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take(
        rounds=5, threads=(1, "Of each engine."), seed=0,
        compile=(False, "Compile Llama's layers; needs a C++ compiler."),
    )  # fmt: skip
    arguments = benchmark.start(words)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    torch.set_num_threads(arguments.threads)
    from vllm import __version__ as vllm_version

    with tempfile.TemporaryDirectory() as folder:
        systems = Systems(Path(folder), arguments.smoke, arguments.seed, arguments.compile)
        systems.check()
        times = measure(systems, arguments.rounds)
    rows = [
        result_row(f"{name}, parameters", "parameters", count, "parameters", 0)
        for name, count in systems.parameters.items()
    ]
    for (name, beams, count), taken in times.items():
        metric = f"time of {count} requests" if count > 1 else "latency"
        rows.append(rounds_row(f"{name}, {beams} beams", metric, taken, "ms"))
    ratios = {
        f"speedup_vs_vllm_beam_search_{beams}": ratio(times["Llama, vLLM", beams, 1], times["gr4ad, vLLM", beams, 1])
        for beams in systems.beams
    }
    narrowest, widest = systems.beams[0], systems.beams[-1]
    ratios[f"throughput_vs_vllm_beam_search_{narrowest}"] = ratio(
        times["Llama, vLLM", narrowest, TOGETHER], times["gr4ad, vLLM", narrowest, TOGETHER]
    )
    ratios["native_vs_vllm"] = ratio(times["gr4ad, vLLM", widest, TOGETHER], times["gr4ad, native", widest, TOGETHER])
    benchmark.write(
        arguments, rows, ratios, seeds=[arguments.seed], threads=arguments.threads, packages=("numpy",),
        versions={"vllm": vllm_version},
    )  # fmt: skip


if __name__ == "__main__":
    main()

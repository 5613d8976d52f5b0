"""How fast LazyAR finds semantic IDs (SIDs): beside transformers' `generate`, vanilla decoding and MTP heads.

    python benchmarks/decode.py --out benchmarks/results/decode.json --figure benchmarks/results/decode.svg
    python benchmarks/decode.py --lists --threads 1 --out benchmarks/results/decode_lists.json

One request: a history of 200 items, a trie of a million random SIDs (codebooks 16384, 4096, 1024; four to a prefix of
two codes), beam search over valid SIDs, random weights. The systems of one comparison have the same layers and, by the
size of their feed-forward layers, the same parameters within 2%; each must return the right number of distinct, valid
SIDs before a clock starts. Building models, tries and look-up tables is not timed. A round takes all systems in turns;
values are medians over rounds, `spread` is the interquartile range, a speedup is the median of the rounds' ratios.

Systems (d = 256): gr4ad with K = 0 (vanilla) .. L - 1 parallel layers, MTP heads on its layers, and Hugging Face's
Llama and T5 (`opponents/transformers_beams.py`) over 200 positions, one an item as in gr4ad, and over the 600 SID
tokens that users of decoder-only models feed. `theory` counts layer-positions: with B = (1, W_1, W_2) rows entering
the levels, vanilla decoding takes L sum(B), LazyAR K T + (L - K) sum(B).

Stages of one request (`measurement/decode_stages.py`) are those at that shape and at the paper's (L = 9, K = 6).
What block lists, allow lists and limits of accounts cost beside a search without: `measurement/restricted_search.py`;
with `--lists` that alone.

`roofline share` = max(FLOPs / peak, bytes / bandwidth) / time of the request, peak and bandwidth being the best of a
large product and a large copy in the same run. The ratio `roofline_share` is that of the paper's shape in --dtype,
`trie_share_of_decode` that of the small one, where the trie weighs more.
"""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from measurement.decode_stages import STAGES, machine_peaks, stage_times, stage_work
from measurement.figures import save_figure
from measurement.random_artifact import random_codes
from measurement.restricted_search import restriction_rows
from measurement.results import Benchmark, Row, rounds_row
from measurement.timing import interleaved, milliseconds
from opponents.mtp_heads import MTPForRecommendation
from opponents.transformers_beams import hugging_face_systems, with_parameters
from torch._inductor import config as inductor
from transformers import PreTrainedModel, set_seed

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, SIDTrie

EQUAL, GROWING = (128, 128, 128), (128, 256, 512)
MAIN, DEEP, PAPER = (4, 3), (6, 4), (9, 6)  # L, and K = 2 L / 3 rounded up
SHAPE = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
SIDS_PER_PREFIX = 4
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Size:
    """What `--smoke` makes smaller."""

    codebooks: tuple[int, ...] = (16384, 4096, 1024)
    sids: int = 1_000_000
    context: int = 200  # items
    main: tuple[int, ...] = (256, 1024, 4, 4)  # values of SHAPE
    paper: tuple[int, ...] = (1024, 2560, 16, 4)
    first_widths: tuple[int, ...] = (16, 32, 64, 128, 256)  # of scaling with w, 2 w, 4 w beams
    contexts: tuple[int, ...] = (25, 50, 100, 200, 400, 800)
    listed: tuple[int, ...] = (100, 10_000)  # ads of a block or allow list
    accounts: tuple[int, ...] = (4000, 400)
    filled: int = 300  # ads of a list
    product: int = 4096  # rows of the matrices whose product is the peak
    copy: int = 1 << 29  # bytes
    turn_ms: int = 200


SMOKE = Size(
    (256, 64, 16), 20_000, 20, (64, 256, 4, 4), (64, 160, 4, 1), (8, 16, 32), (10, 20, 40), (10, 1000), (40,), 36,
    512, 1 << 24, 20,
)  # fmt: skip


class Workload:
    """Random SIDs, their trie and a history, with the models and requests of this size; and what was measured, as rows
    by name and metric in the order they came."""

    def __init__(self, size: Size, device: torch.device, seed: int, repeats: int) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.repeats = repeats
        rng = np.random.default_rng(seed)
        self.size, self.device, self.longest = size, device, max(size.context, *size.contexts)
        drawn = random_codes(size.codebooks, size.sids, rng, per_prefix=SIDS_PER_PREFIX)
        self.keys = np.sort(np.ravel_multi_index(tuple(drawn.T), size.codebooks))
        codes = torch.from_numpy(np.stack(np.unravel_index(self.keys, size.codebooks), axis=1))
        self.trie = SIDTrie.from_codes(codes).to(device)
        self.offsets = torch.tensor(self.config(size.main, MAIN[0], 0).level_offsets)
        self.sids = (codes + self.offsets).to(device)
        self.histories = self.sids[torch.from_numpy(rng.integers(0, size.sids, self.longest))].reshape(1, -1)

    def config(self, shape: tuple[int, ...], layers: int, parallel: int) -> GR4ADConfig:
        return GR4ADConfig(
            codebook_sizes=list(self.size.codebooks),
            num_hidden_layers=layers,
            num_parallel_layers=parallel,
            max_context_items=self.longest,
            **dict(zip(SHAPE, shape, strict=True)),
        )

    def plain(self, dtype: torch.dtype) -> GR4ADForRecommendation:
        """A fresh model of the main shape."""
        return GR4ADForRecommendation(self.config(self.size.main, *MAIN)).eval().to(self.device, dtype)

    def history(self, items: int = 0) -> torch.Tensor:
        return self.histories[:, : len(self.size.codebooks) * (items or self.size.context)]

    def request(
        self, search: Callable, widths: tuple[int, ...], *, items: int = 0, batch: int = 1, **more: Any
    ) -> Callable:
        """`search`, a `beam_search`, of `batch` equal histories, ready to be called."""
        ids = self.history(items).repeat(batch, 1)
        options = {"beam_widths": list(widths), "trie": self.trie, "return_values": False, **more}
        return partial(search, ids, torch.ones_like(ids), **options)

    def check(self, name: str, sids: torch.Tensor, count: int) -> None:
        """Raises SystemExit unless the token ids (W, T) are `count` distinct SIDs of the trie."""
        codes = (sids.cpu() - self.offsets).numpy()
        if len(codes) != count or (codes < 0).any() or (codes >= self.size.codebooks).any():
            raise SystemExit(f"{name} should return {count} SIDs. Received {codes.shape}, or tokens of other levels.")
        keys = np.ravel_multi_index(tuple(codes.T), self.size.codebooks)
        if len(np.unique(keys)) < count or not np.isin(keys, self.keys).all():
            raise SystemExit(f"{name} returned an SID that is not in the trie, or one twice.")

    def in_turns(self, systems: Mapping[Any, Callable], repeats: int | None = None) -> dict[Any, np.ndarray]:
        """Milliseconds of each system, one value a round. A quick system runs several times in its turn, which counts
        as their median: else it would be timed on the caches that a slow one left."""

        def turn(call: Callable) -> float:
            times: list[float] = []
            while sum(times) < self.size.turn_ms:
                times.append(milliseconds(call))
            return float(np.median(times))

        for call in systems.values():
            call()
        turns = {name: partial(turn, call) for name, call in systems.items()}
        return interleaved(turns, repeats or self.repeats, warm_up=False)

    def add(self, name: str, metric: str, values: Any, unit: str) -> None:
        self.rows[name, metric] = rounds_row(name, metric, values, unit)

    def value(self, name: str, metric: str) -> float:
        return self.rows[name, metric]["value"]


def compiled(model: GR4ADForRecommendation) -> Callable:
    """The beam search of a model that will not change, as one graph with packed weights."""
    inductor.freezing = True
    return torch.compile(model.requires_grad_(False).beam_search, fullgraph=True, dynamic=False)


# Systems side by side


def layer_positions(layers: int, parallel: int, widths: tuple[int, ...]) -> int:
    """Work of one request (arXiv 2602.22732, section "LazyAR"), in positions that go through a layer."""
    return parallel * len(widths) * (parallel > 0) + (layers - parallel) * (1 + sum(widths[:-1]))


def label(layers: int, parallel: int) -> str:
    return f"LazyAR, L = {layers}, K = {parallel}" if parallel else f"vanilla, L = {layers}"


def at(widths: tuple[int, ...]) -> str:
    return f"at {'/'.join(map(str, widths))}"


def compare(work: Workload, dtype: torch.dtype, compile_too: bool) -> None:
    """Rows of all systems: parameters, time, and what LazyAR gains."""
    systems: dict[tuple[str, tuple[int, ...]], Callable] = {}
    counts: dict[int, int] = {}  # parameters, by layers

    def enter(
        name: str, model: PreTrainedModel, layers: int, widths: tuple[int, ...], request: Callable, sids: torch.Tensor
    ) -> None:
        work.check(name, sids, widths[-1])
        count = model.num_parameters()
        if abs(count / counts.setdefault(layers, count) - 1) > 0.02:
            raise SystemExit(f"{name} has {count} parameters, not within 2% of {counts[layers]}.")
        work.add(name, "parameters", count, "")
        systems[name, widths] = request

    for layers, parallels, each_widths in (
        (MAIN[0], range(MAIN[0]), (EQUAL, GROWING)),
        (DEEP[0], (0, DEEP[1]), (GROWING,)),
    ):
        configs = {label(layers, parallel): work.config(work.size.main, layers, parallel) for parallel in parallels}
        models = {name: GR4ADForRecommendation(config) for name, config in configs.items()}
        config, model = list(configs.values())[-1], list(models.values())[-1]
        models[f"MTP heads, L = {layers}"] = with_parameters(MTPForRecommendation, config, model.num_parameters())
        for name, model in models.items():
            model.eval().to(work.device, dtype)
            for widths in each_widths:
                request = work.request(model.beam_search, widths)
                enter(name, model, layers, widths, request, request().sequences[0])
                if compile_too and name == label(*MAIN):
                    request = work.request(compiled(model), widths)
                    enter(f"{name}, compiled", model, layers, widths, request, request().sequences[0])
    config = work.config(work.size.main, *MAIN)
    opponents = list(hugging_face_systems(config, counts[MAIN[0]], work.history(), work.sids, dtype, beams=EQUAL[-1]))
    for name, model, request in opponents:
        enter(name, model, MAIN[0], EQUAL, request, request()[:, -len(EQUAL) :])

    times = work.in_turns(systems)
    for (name, widths), values in times.items():
        work.add(name, f"time {at(widths)}", values, "ms")
    for name, _, _ in opponents:
        ratio = times[name, EQUAL] / times[label(*MAIN), EQUAL]
        work.add(name, f"time over that of {label(*MAIN)} {at(EQUAL)}", ratio, "x")
    for layers, parallel, widths in itertools.product((MAIN[0], DEEP[0]), range(1, DEEP[0]), (EQUAL, GROWING)):
        name, vanilla = label(layers, parallel), label(layers, 0)
        if (name, widths) in times:
            theory = layer_positions(layers, 0, widths) / layer_positions(layers, parallel, widths)
            work.add(name, f"speedup {at(widths)}", times[vanilla, widths] / times[name, widths], "x")
            work.add(name, f"theory {at(widths)}", theory, "x")


# Stages of one request


def stage_rows(
    work: Workload, name: str, model: GR4ADForRecommendation, dtype: torch.dtype, compile_too: bool = False
) -> None:
    request = work.request(model.eval().to(work.device, dtype).beam_search, GROWING)
    flops, traffic = stage_work(request, model, work.trie)
    peak, bandwidth = machine_peaks(work.size.product, work.size.copy, work.device, dtype)
    work.in_turns({"warm": request}, 1)
    runs, whole = [], []
    for _ in range(work.repeats):
        runs.append(stage_times(request, model, work.trie))
        whole.append(milliseconds(request))
    ideal = 1e3 * max(flops.total() / peak, traffic.total() / bandwidth)
    work.add(name, "parameters", model.num_parameters(), "")
    for stage in STAGES:
        work.add(f"{name}, {stage}", "time", [run[stage] for run in runs], "ms")
    work.add(f"{name}, request", "time", whole, "ms")
    for stage, count, size in *((s, flops[s], traffic[s]) for s in flops), ("request", flops.total(), traffic.total()):
        if count:
            work.add(f"{name}, {stage}", "work", count / 1e9, "GFLOP")
            work.add(f"{name}, {stage}", "traffic", size / 1e6, "MB")
    work.add(f"{name}, request", "roofline share", ideal / np.array(whole), "")
    work.add(f"{name}, request", "trie share", [run["trie"] / sum(run.values()) for run in runs], "")
    if compile_too:
        torch.compiler.reset()  # a graph with packed weights does not notice that they have changed
        graph = work.request(compiled(model), GROWING)
        times = work.in_turns({"": request, "compiled": graph})
        work.add(f"{name}, request compiled", "time", times["compiled"], "ms")
        work.add(f"{name}, request compiled", "speedup", times[""] / times["compiled"], "x")
        work.add(f"{name}, request compiled", "roofline share", ideal / times["compiled"], "")
    work.add(f"{name}, machine", "peak", peak / 1e9, "GFLOP/s")
    work.add(f"{name}, machine", "bandwidth", bandwidth / 1e9, "GB/s")


# Growth, throughput


def scaling(work: Workload, dtype: torch.dtype) -> None:
    """Time by beams and by context, with the line of least squares; its spread is over the lines of the rounds."""
    model = work.plain(dtype)
    request = partial(work.request, model.beam_search)
    each_widths = {7 * w: (w, 2 * w, 4 * w) for w in work.size.first_widths}
    requests = {
        "beams": {beams: request(widths) for beams, widths in each_widths.items()},
        "context items": {items: request(GROWING, items=items) for items in work.size.contexts},
    }
    for axis, systems in requests.items():
        times = work.in_turns(systems)
        x, y = np.array(list(times)), np.array(list(times.values()))
        slope, start = np.polyfit(x, y, 1)  # a line a round
        middle, line = np.median(y, axis=1), np.median(slope) * x + np.median(start)
        for count, values in times.items():
            work.add(f"scaling with {axis}, {count}", "time", values, "ms")
        work.add(f"scaling with {axis}", "slope", 1e3 * slope, f"ms per 1000 {axis}")
        work.add(f"scaling with {axis}", "intercept", start, "ms")
        r2 = 1 - ((middle - line) ** 2).sum() / ((middle - middle.mean()) ** 2).sum()
        work.add(f"scaling with {axis}", "R2", r2, "")


def throughput(work: Workload, model: GR4ADForRecommendation, batches: list[int]) -> None:
    """Latency and requests/s of one batch after another, as of a server that always has requests waiting."""
    model.to(torch.bfloat16)
    for batch in batches:
        request = work.request(model.beam_search, GROWING, batch=batch)
        work.in_turns({batch: request}, 1)
        times = np.array([milliseconds(request) for _ in range(10 * work.repeats)])
        name = f"paper shape, bfloat16, batch of {batch}"
        for percentile in (50, 99):
            work.add(name, f"P{percentile}", np.percentile(times, percentile), "ms")
        work.add(name, "throughput", 1e3 * batch / times, "requests/s")


# The figure, the table and the file


def draw(path: Path, work: Workload) -> None:
    """Times of all systems, growth with beams and context, stages at the paper's shape."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.4, 1])
    bars = [(*key, row["value"]) for key, row in reversed(work.rows.items()) if key[1].startswith("time at")]
    bars.sort(key=lambda bar: bar[1])  # by widths
    labels = [f"{name}, {metric.removeprefix('time at ')}" for name, metric, _ in bars]
    families = {"generate": "0.6", "LazyAR": "C0"}
    colours = [families.get(name.split(maxsplit=1)[0].rstrip(","), "lightskyblue") for name, _, _ in bars]
    axes = top.subplots()
    drawn = axes.barh(labels, [value for *_, value in bars], color=colours)
    axes.bar_label(drawn, fmt=lambda value: f"{value:,.{int(value < 100)}f}", padding=3, fontsize=8)
    axes.set(xscale="log", xlabel="ms", ylim=(-0.6, len(bars) - 0.4))
    axes.set_title("One request, by system and beams per level (grey: transformers)", fontsize=10)
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.15)

    by_beams, by_context, by_stage = bottom.subplots(1, 3)
    for axes, axis, counts in (
        (by_beams, "beams", [7 * width for width in work.size.first_widths]),
        (by_context, "context items", work.size.contexts),
    ):
        name = f"scaling with {axis}"
        slope, start, r2 = (work.value(name, metric) for metric in ("slope", "intercept", "R2"))
        ends = np.array([0, max(counts)])
        axes.plot(ends, start + slope / 1000 * ends, color="0.6")
        axes.plot(counts, [work.value(f"{name}, {count}", "time") for count in counts], "o")
        axes.margins(0.1)
        axes.set(xlabel=axis, ylabel="ms", xlim=(0, None), ylim=(0, None))
        axes.set_title(f"{start:.3g} ms + {slope:.3g} per 1000 {axis}, R² = {r2:.3f}", fontsize=8)

    below = np.zeros(len(PRECISIONS))
    for stage in STAGES:
        values = np.array([work.value(f"paper shape, {precision}, {stage}", "time") for precision in PRECISIONS])
        by_stage.bar(PRECISIONS, values, bottom=below, label=stage, width=0.6)
        below += values
    by_stage.set(ylabel="ms", xlim=(-0.5, 3.2))
    by_stage.set_title("stages at the paper's shape", fontsize=8)
    by_stage.legend(fontsize=7, reverse=True, loc="upper right")
    save_figure(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="Small models and tries, two rounds: 20 seconds.")
    benchmark.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    benchmark.add_argument("--dtype", choices=PRECISIONS, default="float32", help="All but the stages.")
    benchmark.add_argument("--batches", type=int, nargs="+", help="Default: 1, 2, 4 .. 256 on cuda, none on cpu.")
    benchmark.take(
        "--figure", threads=torch.get_num_threads(), repeats=(9, "Rounds."), seed=0,
        compile=(False, "Also LazyAR by `torch.compile`; needs a C++ compiler."),
        lists=(False, "Only what block lists, allow lists and limits of accounts cost."),
    )  # fmt: skip
    arguments = benchmark.start(words, repeats=2)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        benchmark.error("--device cuda: torch sees no GPU here. Use --device cpu, or a build of torch with CUDA.")
    if arguments.repeats < 2 or arguments.threads < 1:
        benchmark.error("--repeats should be at least 2 (a spread needs two rounds) and --threads at least 1.")
    size = SMOKE if arguments.smoke else Size()
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    on_gpu = device.type == "cuda"
    torch.set_num_threads(arguments.threads)
    set_seed(arguments.seed)

    work = Workload(size, device, arguments.seed, arguments.repeats)
    gpu = {"gpu": torch.cuda.get_device_name()} if on_gpu else {}

    def write(ratios: Mapping[str, float]) -> None:
        benchmark.write(
            arguments, list(work.rows.values()), ratios, seeds=[arguments.seed], threads=arguments.threads,
            packages=("numpy",), **gpu,
        )  # fmt: skip

    if arguments.lists:
        write(restriction_rows(work, work.plain(dtype), GROWING, size.listed, size.accounts, size.filled))
        return
    logging.info("systems side by side")
    compare(work, dtype, arguments.compile)
    logging.info("stages")
    stage_rows(work, f"main shape, {arguments.dtype}", GR4ADForRecommendation(work.config(size.main, *MAIN)), dtype)
    paper_model = GR4ADForRecommendation(work.config(size.paper, *PAPER))
    for precision in PRECISIONS:
        stage_rows(work, f"paper shape, {precision}", paper_model, getattr(torch, precision), arguments.compile)
    throughput(work, paper_model, arguments.batches or ([2**n for n in range(9)] if on_gpu else []))
    logging.info("lists of ads")
    restriction_rows(work, work.plain(dtype), GROWING, size.listed, size.accounts, size.filled)
    logging.info("growth")
    scaling(work, dtype)
    positions, tokens = f"{size.context} positions", f"{len(EQUAL) * size.context} tokens"
    over, deep = f"time over that of {label(*MAIN)} {at(EQUAL)}", label(*DEEP)
    ratios = {
        "speedup_vs_hf_generate_128": work.value(f"generate, Llama, {positions}", over),
        "speedup_vs_hf_generate_128_600_tokens": work.value(f"generate, Llama, {tokens}", over),
        "speedup_vs_hf_generate_128_t5": work.value(f"generate, T5, {positions}", over),
        "speedup_vs_hf_prefill_once_128": work.value(f"generate after one prefill, Llama, {positions}", over),
        "speedup_lazyar_vs_vanilla": work.value(deep, f"speedup {at(GROWING)}"),
        "theory_lazyar_vs_vanilla": work.value(deep, f"theory {at(GROWING)}"),
        "trie_share_of_decode": work.value(f"main shape, {arguments.dtype}, request", "trie share"),
        "roofline_share": work.value(f"paper shape, {arguments.dtype}, request", "roofline share"),
    }
    write(ratios)
    if arguments.figure:
        draw(arguments.figure, work)


if __name__ == "__main__":
    main()

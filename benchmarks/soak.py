"""A server under everything at once for minutes: requests, changes of ads, reloads, damaged weights, bad clients.

    nice python benchmarks/soak.py --out benchmarks/results/soak.json --figure docs/figures/soak.svg
    nice python benchmarks/soak.py --backend vllm --out benchmarks/results/soak_vllm.json

`gr4ad serve` runs as a process of its own, the native one with its result cache on, with beams that follow the load.
On vLLM memory is that of all its processes together, and there is no Open Inference. Valid requests arrive as a
Poisson process, 1,000 ads a minute are added, replaced or removed, other weights are loaded each minute and damaged
ones offered in between, clients send bad bodies or leave. Whatever must not happen is counted, and the command fails
if anything was. Its latencies are of this load on this machine: no measure of speed.
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import torch
from matplotlib.figure import Figure
from measurement.figures import save_figure
from measurement.random_artifact import ad_ids, random_artifact, random_tokenizer
from measurement.results import Benchmark, Row, result_row
from measurement.server_process import ServerProcess
from measurement.soak_clients import TOKEN, WORKERS, Ledger, annoy, ask_all, change_ads, reload_all
from safetensors.torch import load_file, save_file

from gr4ad import UASIDTokenizer
from gr4ad.tokenization import fit_value_buckets

VLLM = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_CI_ENV": "1", "VLLM_NO_USAGE_STATS": "1"}
FAULTS = (
    "failed valid requests", "failed changes", "failed reloads", "damaged weights taken", "unknown ads",
    "removed ads in later requests", "removed ads after 1 s", "mixed versions",
    "bad requests not refused as they should be",
)  # fmt: skip
COUNTS = (
    "valid requests", "429 with Retry-After", "cached answers", "valid inferences", "reloads",
    "damaged weights refused", "bad requests", "clients that left",
)  # fmt: skip


def write_artifact(folder: Path, ads: int) -> None:
    edges, means = fit_value_buckets(np.random.default_rng(0).integers(0, 5, 1000).astype(np.float64), 4)
    tokenizer = random_tokenizer(
        [16, 16, 16], ads, columns={"title": [f"Title {item}" for item in ad_ids(ads)]}, value_bucket_edges=edges,
        value_bucket_means=means, value_unit="cents",
    )  # fmt: skip
    # Over codebooks an ad's score does not depend on what else is served: where versions are mixed, it shows.
    random_artifact(
        folder, tokenizer, beam_widths=[16, 32, 32], serving={"exclude_history": True}, num_items=ads + 1,
        sid_normalization="codebook",
        item_head=True, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_parallel_layers=2,
        num_attention_heads=2, num_context_layers=1, max_context_items=20, initializer_range=0.3,
    )  # fmt: skip


def copy_with(source: Path, folder: Path, factor: float) -> Path:
    shutil.copytree(source, folder)
    weights = {name: tensor * factor for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def damaged(source: Path, folder: Path) -> list[Path]:
    """Artifacts that must not be served: cut weights, weights that are no numbers, a configuration of nothing."""
    cut, nothing = folder / "cut", folder / "nothing"
    for place in (cut, nothing):
        shutil.copytree(source, place)
    content = (source / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    (nothing / "config.json").write_text("{}")
    return [cut, copy_with(source, folder / "no_numbers", torch.nan), nothing]


def resident_megabytes(process: psutil.Process) -> float:
    """Of a process and those that it started."""
    return sum(part.memory_info().rss for part in (process, *process.children(recursive=True))) / 2**20


async def watch_memory(process: psutil.Process, ledger: Ledger, until: float) -> list[tuple[float, float]]:
    """(Seconds since the start, resident MB) each half second; and how late the clients' own loop is."""
    samples, turn = [], 0
    while time.monotonic() < until:
        if turn % 10 == 0:
            samples.append((time.monotonic() - ledger.begun, resident_megabytes(process)))
        turn, before = turn + 1, time.monotonic()
        await asyncio.sleep(0.05)
        ledger.pause = max(ledger.pause, time.monotonic() - before - 0.05)
    return samples


async def soak(
    url: str,
    process: psutil.Process,
    ledger: Ledger,
    items: list[str],
    models: list[Path],
    broken: list[Path],
    arguments: argparse.Namespace,
) -> list[tuple[float, float]]:
    native, until = arguments.backend == "torch", time.monotonic() + 60 * arguments.minutes
    ledger.begun = time.monotonic()
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as client:
        first = (await client.get("/v1/model")).json()
        ledger.names[first["model_version"]] = first["model"]
        period = 60 * WORKERS / arguments.changes
        memory, *_ = await asyncio.gather(
            watch_memory(process, ledger, until),
            ask_all(client, ledger, items, arguments.rate, arguments.widest, until, native),
            *(change_ads(client, ledger, number, period, until) for number in range(WORKERS)),
            reload_all(client, ledger, models, broken, arguments.reload_seconds, until),
            annoy(client, ledger, items, arguments.annoy_seconds, until, native),
        )
    return memory


def plot(ledger: Ledger, memory: list[tuple[float, float]], file: Path) -> None:
    end = memory[-1][0]
    width = max(1.0, end / 60)
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    axes[0].plot(*zip(*memory, strict=True), color="tab:blue")
    axes[0].set(ylabel="resident MB", ylim=(0, None), title="Server under requests, changes, reloads and bad clients")
    answers = pd.DataFrame(ledger.latencies, columns=["at", "took"])
    windows = (1000 * answers["took"]).groupby(answers["at"] // width)
    for percent, colour in ((99, "tab:red"), (50, "tab:green")):
        line = windows.quantile(percent / 100)
        axes[1].plot((line.index + 0.5) * width, line, color=colour, label=f"P{percent}")
    axes[1].set(ylabel="latency, ms", ylim=(0, None))
    axes[1].legend(loc="upper right", frameon=False)
    counts, edges = np.histogram(ledger.changes, bins=np.arange(0, end + width, width))
    axes[2].step(edges[:-1], counts * 60 / width, where="post", color="tab:purple")
    axes[2].set(ylabel="ads changed a minute", xlabel="seconds", ylim=(0, None))
    save_figure(figure, file)


def rows_of(ledger: Ledger, memory: list[tuple[float, float]], minutes: float, exit_code: int) -> list[Row]:
    rows = [result_row(name, "must be 0", ledger.wrong[name], "count") for name in FAULTS]
    rows += [result_row(name, "seen", ledger.seen[name], "count") for name in COUNTS]
    rows.append(result_row("changes of ads", "rate", len(ledger.changes) / minutes, "1 / minute"))
    rows.append(result_row("removed ad", "latest answer with it", ledger.oldest_removed, "s after its removal"))
    rows.append(result_row("clients", "longest pause of their own", ledger.pause, "s"))
    warm = [sample for sample in memory if sample[0] > 0.3 * memory[-1][0]]
    slope = np.polyfit(*zip(*warm, strict=True), 1)[0] * 60
    levels = [mb for _, mb in warm]
    spread = statistics.pstdev(levels)
    rows.append(result_row("memory", "slope after 30% of the time", float(slope), "MB / minute"))
    rows.append(result_row("memory", "median after 30% of the time", statistics.median(levels), "MB", spread))
    for percent in (50, 99):
        value = np.percentile([1000 * took for _, took in ledger.latencies], percent)
        rows.append(result_row("valid requests", f"latency P{percent}", float(value), "ms"))
    rows.append(result_row("server", "exit code on SIGTERM", exit_code, "code"))
    return rows


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.add_argument("--model", type=Path, metavar="RUN", help="Folder of `gr4ad run`; default: random weights.")
    benchmark.add_argument("--backend", default="torch", choices=("torch", "vllm"))
    benchmark.take(
        "--figure", minutes=10.0, rate=(8.0, "Valid requests a second."), changes=(1000.0, "Ads a minute."),
        widest=(512, "Beams of the requests that ask for most ads."), reload_seconds=60.0,
        annoy_seconds=(0.5, "Between two bad requests."),
    )  # fmt: skip
    arguments = benchmark.start(words, minutes=0.15, reload_seconds=3.0, widest=64)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        one = folder / "one"
        if arguments.model is None:
            write_artifact(one, 60 if arguments.smoke else 400)
        else:
            shutil.copytree(arguments.model, one)
        models = [one, copy_with(one, folder / "two", 1.02)]
        broken = damaged(one, folder)
        index = UASIDTokenizer.from_pretrained(one).index
        items = index.item_ids.tolist()
        sids = dict(zip(items, index.codes.tolist(), strict=True))
        stable, changing = items[: len(items) * 3 // 4], items[len(items) * 3 // 4 :]
        codes = {item: sids[item] for item in changing}
        codes |= {f"soak_{number}": sids[items[number % len(items)]] for number in range(len(items) // 2)}
        ledger = Ledger(codes=codes, known=set(items))
        flags = {"backend": arguments.backend, "slo_ms": 500, "deadline_ms": 20_000}
        flags |= {"cache_seconds": 5} if arguments.backend == "torch" else {}
        server = ServerProcess(one, folder / "server.log", flags, environment={"GR4AD_ADMIN_TOKEN": TOKEN, **VLLM})
        process = psutil.Process(server.process.pid)
        try:
            memory = asyncio.run(soak(server.url, process, ledger, stable, models, broken, arguments))
            exit_code = server.stop()
        finally:
            server.kill()
        log = server.tail()
    rows = rows_of(ledger, memory, arguments.minutes, exit_code)
    early = statistics.median(mb for at, mb in memory if 0.2 * memory[-1][0] < at < 0.4 * memory[-1][0])
    late = statistics.median(mb for at, mb in memory if at > 0.8 * memory[-1][0])
    settings = ("backend", "minutes", "rate", "changes", "reload_seconds", "annoy_seconds")
    load = {name: vars(arguments)[name] for name in settings}
    ratios = {"memory_last_fifth_vs_second_fifth": late / early}
    benchmark.write(arguments, rows, ratios, load=load, examples=ledger.examples)
    if arguments.figure is not None:
        plot(ledger, memory, arguments.figure)
    if sum(ledger.wrong.values()) or exit_code:
        raise SystemExit(f"What must not be: {ledger.examples}, exit code {exit_code}. The server's log: {log}")


if __name__ == "__main__":
    main()

"""A server under everything at once for minutes: requests, changes of ads, reloads, damaged weights, bad clients.

    nice python benchmarks/soak.py --out benchmarks/results/soak.json --figure docs/figures/soak.svg
    nice python benchmarks/soak.py --backend vllm --out benchmarks/results/soak_vllm.json

`gr4ad serve` runs as a process of its own, the native one with its result cache on, with beams that follow the load.
On vLLM memory is that of the API server, the engine and its worker together, and there is no Open Inference. Valid
requests arrive as a Poisson process (open loop), 1,000 ads a minute are added, replaced or removed, other weights are
loaded each minute and damaged ones offered in between, clients send bad bodies or leave. Whatever must not happen is
counted, and the command fails if anything was. Its latencies are of this load on this machine: no measure of speed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
from safetensors.torch import load_file, save_file
from soak_clients import TOKEN, WORKERS, Ledger, annoy, ask_all, change_ads, reload_all
from transformers import GenerationConfig, set_seed

from gr4ad import GR4ADConfig, GR4ADForRecommendation, MGMRQuantizer, SIDIndex, UASIDTokenizer
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json
from gr4ad.tokenization import fit_value_buckets

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
    """A small model with random weights and `ads` ads."""
    rng = np.random.default_rng(0)
    ids = [f"ad_{number}" for number in range(ads)]
    quantizer = MGMRQuantizer([16, 16, "16*"], distinct_last=True)
    codes = quantizer.fit(rng.normal(size=(ads, 16)).astype(np.float32), ids)
    with tempfile.TemporaryDirectory() as parts:
        quantizer.save(Path(parts) / "codebooks.safetensors")
        SIDIndex(ids, codes, columns={"title": [f"Title {item}" for item in ids]}).save(Path(parts) / "items.parquet")
        edges, means = fit_value_buckets(rng.integers(0, 5, 1000).astype(np.float64), 4)
        tokenizer = UASIDTokenizer(
            str(Path(parts) / "items.parquet"),
            str(Path(parts) / "codebooks.safetensors"),
            codebook_sizes=["16", "16", "16*"],
            value_bucket_edges=edges,
            value_bucket_means=means,
            value_unit="cents",
        )
        set_seed(0)
        config = GR4ADConfig(
            codebook_sizes=tokenizer.level_sizes, num_value_buckets=len(means), value_bucket_means=means,
            num_items=ads + 1, item_head=True, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_parallel_layers=2, num_attention_heads=2, num_context_layers=1, max_context_items=20,
            initializer_range=0.3,
        )  # fmt: skip
        GR4ADForRecommendation(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    GenerationConfig(
        beam_widths=[16, 32, 32], item_weight=0.0, value_weight=0.0, score_history=False, exclude_history=True
    ).save_pretrained(folder)


def copy_with(source: Path, folder: Path, factor: float) -> Path:
    """The artifact with all its weights times `factor`."""
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


async def soak(url: str, process: psutil.Process, ledger: Ledger, items: list[str], models, broken, arguments):
    """Runs all clients to the end; returns what `watch_memory` does."""
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


def percentiles_by_window(samples: list[tuple[float, float]], width: float) -> list[tuple[float, float, float]]:
    """(Middle of the window, P50, P99) in seconds and milliseconds."""
    lines = []
    for start in np.arange(0, max(at for at, _ in samples), width):
        inside = [1000 * took for at, took in samples if start <= at < start + width]
        if inside:
            lines.append((start + width / 2, *np.percentile(inside, [50, 99])))
    return lines


def plot(ledger: Ledger, memory: list[tuple[float, float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    end = memory[-1][0]
    width = max(1.0, end / 60)
    figure, axes = pyplot.subplots(3, 1, figsize=(8, 6.5), sharex=True, layout="constrained")
    axes[0].plot(*zip(*memory, strict=True), color="tab:blue")
    axes[0].set(ylabel="resident MB", ylim=(0, None), title="Server under requests, changes, reloads and bad clients")
    middles, p50, p99 = zip(*percentiles_by_window(ledger.latencies, width), strict=True)
    axes[1].plot(middles, p99, color="tab:red", label="P99")
    axes[1].plot(middles, p50, color="tab:green", label="P50")
    axes[1].set(ylabel="latency, ms", ylim=(0, None))
    axes[1].legend(loc="upper right", frameon=False)
    counts, edges = np.histogram(ledger.changes, bins=np.arange(0, end + width, width))
    axes[2].step(edges[:-1], counts * 60 / width, where="post", color="tab:purple")
    axes[2].set(ylabel="ads changed a minute", xlabel="seconds", ylim=(0, None))
    file.parent.mkdir(parents=True, exist_ok=True)
    pyplot.rcParams["svg.hashsalt"] = "gr4ad"
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def start_server(model: Path, folder: Path, backend: str) -> tuple[subprocess.Popen, str]:
    """A server of its own process on a free port, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "gr4ad.cli", "serve", "--backend", backend, "--model", str(model), "--port", str(port),
        "--slo_ms", "500", "--deadline_ms", "20000", *(["--cache_seconds", "5"] if backend == "torch" else []),
    ]  # fmt: skip
    environment = {"GR4AD_ADMIN_TOKEN": TOKEN, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_CI_ENV": "1", "VLLM_NO_USAGE_STATS": "1"}
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 600
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/v1/model", trust_env=False).status_code == 200:
                return server, url
        if server.poll() is not None or time.monotonic() > end:
            os.killpg(server.pid, signal.SIGKILL)  # vLLM's other processes outlive the first one
            raise SystemExit(f"The server did not start: {(folder / 'server.log').read_text()[-2000:]}")
        time.sleep(0.1)


def rows_of(ledger: Ledger, memory: list[tuple[float, float]], minutes: float, exit_code: int) -> list[dict]:
    def row(name: str, metric: str, value: float, unit: str, spread: float | None = None) -> dict:
        return {"name": name, "metric": metric, "value": value, "spread": spread, "unit": unit}

    rows = [row(name, "must be 0", ledger.wrong[name], "count") for name in FAULTS]
    rows += [row(name, "seen", ledger.seen[name], "count") for name in COUNTS]
    rows.append(row("changes of ads", "rate", round(len(ledger.changes) / minutes, 1), "1 / minute"))
    rows.append(row("removed ad", "latest answer with it", round(ledger.oldest_removed, 4), "s after its removal"))
    rows.append(row("clients", "longest pause of their own", round(ledger.pause, 4), "s"))
    warm = [sample for sample in memory if sample[0] > 0.3 * memory[-1][0]]
    slope = np.polyfit(*zip(*warm, strict=True), 1)[0] * 60
    levels = [mb for _, mb in warm]
    spread = round(statistics.pstdev(levels), 1)
    rows.append(row("memory", "slope after 30% of the time", round(float(slope), 3), "MB / minute"))
    rows.append(row("memory", "median after 30% of the time", round(statistics.median(levels), 1), "MB", spread))
    for percent in (50, 99):
        value = np.percentile([1000 * took for _, took in ledger.latencies], percent)
        rows.append(row("valid requests", f"latency P{percent}", round(float(value), 1), "ms"))
    rows.append(row("server", "exit code on SIGTERM", exit_code, "code"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--figure", type=Path, help="SVG file to write.")
    parser.add_argument("--model", type=Path, help="Folder of `gr4ad run`; default: a small one with random weights.")
    parser.add_argument("--backend", default="torch", choices=("torch", "vllm"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=8.0, help="Valid requests a second.")
    parser.add_argument("--changes", type=float, default=1000.0, help="Ads a minute.")
    parser.add_argument("--widest", type=int, default=512, help="Beams of the requests that ask for most ads.")
    parser.add_argument("--reload_seconds", type=float, default=60.0)
    parser.add_argument("--annoy_seconds", type=float, default=0.5, help="Between two bad requests.")
    parser.add_argument("--smoke", action="store_true", help="The smallest run, for its form alone.")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.minutes, arguments.reload_seconds, arguments.widest = 0.15, 3.0, 64
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
        server, url = start_server(one, folder, arguments.backend)
        try:
            memory = asyncio.run(soak(url, psutil.Process(server.pid), ledger, stable, models, broken, arguments))
        finally:
            server.send_signal(signal.SIGTERM)
            exit_code = server.wait(60)
        log = (folder / "server.log").read_text(errors="replace")
    rows = rows_of(ledger, memory, arguments.minutes, exit_code)
    early = statistics.median(mb for at, mb in memory if 0.2 * memory[-1][0] < at < 0.4 * memory[-1][0])
    late = statistics.median(mb for at, mb in memory if at > 0.8 * memory[-1][0])
    result = {
        "command": f"python benchmarks/soak.py --backend {arguments.backend} --out FILE --figure FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": [0],
        "load": {
            name: vars(arguments)[name]
            for name in ("backend", "minutes", "rate", "changes", "reload_seconds", "annoy_seconds")
        },
        "rows": rows,
        "ratios": {"memory_last_fifth_vs_second_fifth": round(late / early, 4)},
        "examples": ledger.examples,
    }
    write_json(arguments.out, result)
    if arguments.figure is not None:
        plot(ledger, memory, arguments.figure)
    print(json.dumps(result["rows"], indent=1))  # noqa: T201
    if sum(ledger.wrong.values()) or exit_code:
        raise SystemExit(
            f"What must not be: {ledger.examples}, exit code {exit_code}. The server's log: {log[-3000:]}"
        )


if __name__ == "__main__":
    main()

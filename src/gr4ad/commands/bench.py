"""`gr4ad bench serve | beams`: what a server holds under load, and which beam widths to serve with."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from rich.table import Table

from gr4ad.commands import terminal
from gr4ad.commands.arguments import CommandParser


def bench(arguments: list[str]) -> None:
    parser = CommandParser(prog="gr4ad bench", description="Measures a server, or what beams are worth.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    serve = kinds.add_parser("serve", help="open-loop load on a running server")
    serve.add_argument("--url", required=True, help="of the server, e.g. http://127.0.0.1:8000")
    serve.add_argument("--requests", required=True, type=Path, help="JSON lines, a body of /v1/recommend each; reused")
    serve.add_argument("--rate", type=float, required=True, help="requests a second (Poisson); the trough of a day")
    serve.add_argument("--day-peak", "--day_peak", type=float, help="requests a second in the middle of a day")
    serve.add_argument("--seconds", type=float, default=60.0, help="how long (default: %(default)s)")
    serve.add_argument("--slo-ms", "--slo_ms", type=float, help="objective in milliseconds, for goodput")
    serve.add_argument("--timeout", type=float, default=10.0, help="seconds until a request counts as lost")
    serve.add_argument("--seed", type=int, default=0, help="of the arrivals")
    serve.add_argument("--out", type=Path, help="JSON file to write")
    serve.add_argument("--figure", type=Path, help="SVG file to write: arrivals, latency, widths over time")
    beams = kinds.add_parser("beams", help="widths of each level against quality and time, on validation")
    beams.add_argument("--model", required=True, help="folder of a finished `gr4ad run`")
    beams.add_argument("--widest", type=int, default=512, help="beams of the widest level (default: %(default)s)")
    beams.add_argument("--metric", choices=["ndcg", "revenue"], default="ndcg", help="at 10 (default: %(default)s)")
    beams.add_argument("--users", type=int, default=1000, help="validation users (default: %(default)s)")
    beams.add_argument("--max-loss", "--max_loss", type=float, default=0.005, help="share that may be lost")
    options = parser.parse_args(arguments)
    bench_serve(options) if options.kind == "serve" else bench_beams(options)


def bench_serve(options: argparse.Namespace) -> None:
    try:
        from gr4ad.serving.load_test import constant_rate, day_rate, poisson_arrivals, run_load, summarize, timeline
    except ModuleNotFoundError as error:
        raise ImportError(f"`gr4ad bench serve` needs {error.name!r}: pip install 'gr4ad[bench]'.") from error
    from gr4ad.report.load_plots import load_figure

    bodies = read_bodies(options.requests)
    peak = options.rate if options.day_peak is None else options.day_peak
    if peak < options.rate:
        raise ValueError(f"`day_peak` must be at least `rate` = {options.rate}. Received: {peak}.")
    shape = constant_rate(peak) if options.day_peak is None else day_rate(options.rate, peak, options.seconds)
    arrivals = poisson_arrivals(shape, peak, options.seconds, options.seed)
    outcomes = asyncio.run(run_load(options.url.rstrip("/"), bodies, arrivals, timeout=options.timeout))
    slo = None if options.slo_ms is None else options.slo_ms / 1000
    figures, parts = summarize(outcomes, slo, options.seconds), timeline(outcomes, options.seconds)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    terminal.console().print(table)
    if options.out is not None:
        options.out.write_text(json.dumps({"figures": figures, "timeline": parts}, indent=1), encoding="utf-8")
    if options.figure is not None:
        load_figure({options.url: parts}, options.slo_ms).savefig(options.figure, metadata={"Date": None})


def read_bodies(path: Path) -> list[dict]:
    """Bodies of requests, one JSON object a line. Raises ValueError, naming the line, if one is none, or there is no
    line."""
    bodies = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            body = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}). Write one object a line.") from error
        if not isinstance(body, dict):
            raise ValueError(f"{path}, line {number}: must be an object, as of /v1/recommend. Received: {line[:100]}.")
        bodies.append(body)
    if not bodies:
        raise ValueError(f"{path} holds no request. Write one JSON object a line.")
    return bodies


def bench_beams(options: argparse.Namespace) -> None:
    from gr4ad.pipeline.beam_frontier import beam_frontier, recommended

    points = beam_frontier(options.model, widest=options.widest, metric=options.metric, users=options.users)
    table = Table("widths", "CPU ms a user", "ndcg@10", "revenue@10", f"loss of {options.metric} [95%]")
    for point in points:
        low, high = point.loss_interval
        table.add_row(
            f"{'/'.join(map(str, point.widths))} ({point.name})",
            f"{point.ms:.2f}",
            f"{point.metrics['ndcg']:.4f}",
            f"{point.metrics['revenue']:.4g}",
            f"{point.loss:+.2%} [{low:+.2%}, {high:+.2%}]",
        )
    console = terminal.console()
    console.print(table)
    choice = recommended(points, options.max_loss)
    console.print(
        f"Fastest within {options.max_loss:.2%}: {choice.widths}. Write it as `beam_widths` into "
        f"{Path(options.model) / 'generation_config.json'}."
    )

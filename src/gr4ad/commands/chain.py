"""The whole chain: `gr4ad run` and `gr4ad demo`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from rich.table import Table

from gr4ad.commands import terminal
from gr4ad.commands.arguments import CommandParser
from gr4ad.commands.evaluation import show_comparison, show_metrics
from gr4ad.pipeline.runner import process_rank


def run(arguments: list[str]) -> None:
    from gr4ad.pipeline.recipe import load_recipe, packaged_recipes
    from gr4ad.pipeline.run import run_recipe

    parser = CommandParser(prog="gr4ad run", description="Runs a recipe; finished stages are kept.")
    parser.add_argument("recipe", help=f"YAML file, or one of: {', '.join(packaged_recipes())}")
    parser.add_argument("--data", help="folder that the recipe's data files resolve against")
    parser.add_argument("--out", required=True, help="folder to write: the artifact, its report and the stages")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="of every stage (default: the recipe's)")
    seeds.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="one run each, seed 0 in OUT and seed N in OUT-seedN; then OUT-seeds compares them",
    )
    options = parser.parse_args(arguments)
    command = f"gr4ad run {options.recipe}" + (" --data DIR" if options.data else "") + " --out OUT"
    if options.seeds is None:
        recipe = load_recipe(options.recipe, data_root=options.data, seed=options.seed)
        show_run(run_recipe(recipe, options.out, command=command), Path(options.out))
        return
    run_seeds(options.recipe, options.data, Path(options.out), options.seeds, command)


def run_seeds(source: str, data_root: str | None, out: Path, seeds: list[int], command: str) -> None:
    """One run a seed, then all of them together. Raises ValueError if a seed is given twice, or as `run_recipe`."""
    from gr4ad.pipeline.comparing import compare_runs, save_comparison, seed_folder
    from gr4ad.pipeline.recipe import load_recipe
    from gr4ad.pipeline.run import run_recipe

    if len(set(seeds)) < len(seeds):
        raise ValueError(f"`--seeds` should name each seed once. Received: {' '.join(map(str, seeds))}.")
    folders = {seed: seed_folder(out, seed) for seed in seeds}
    for seed, folder in folders.items():
        recipe = load_recipe(source, data_root=data_root, seed=seed)
        show_run(run_recipe(recipe, folder, command=f"{command} --seed {seed}"), folder)
    if process_rank():
        return
    comparison = compare_runs({recipe.name: list(folders.values())})
    console = terminal.console()
    show_comparison(comparison, console)
    save_comparison(comparison, f"{out}-seeds")
    console.print(f"comparison: {out}-seeds", markup=False, highlight=False, soft_wrap=True)


def demo(arguments: list[str]) -> None:
    parser = CommandParser(prog="gr4ad demo", description="The chain on a simulated ad market, then a served request.")
    parser.add_argument("--out", default="demo", help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of market and training (default: the recipe's)")
    options = parser.parse_args(arguments)

    from gr4ad.pipeline.recipe import load_recipe
    from gr4ad.pipeline.run import run_recipe

    out = Path(options.out)
    recipe = load_recipe("demo", seed=options.seed)
    if recipe.market is not None and options.seed is not None:
        recipe.market.seed = options.seed
    show_run(run_recipe(recipe, out, command="gr4ad demo"), out)
    serve_one_request(out)


def show_run(metrics: dict, out: Path) -> None:
    """Prints the tables and where the report lies, in one of the processes that ran the chain."""
    if process_rank():
        return
    console = terminal.console()
    show_metrics(metrics, console)
    console.print(f"artifact: {out}   report: {out / 'report.html'}   metrics: {out / 'metrics.json'}")
    written = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    command = recommend_command(out, written.get("sample_history", []))
    if command:
        console.print(f"try it: {command}", markup=False, highlight=False, soft_wrap=True)


def recommend_command(out: Path, history: list[str]) -> str:
    """The command that ranks ads for the last items of a history; "" where there are none that a shell could give."""
    items = [item for item in history if "," not in item][-3:]
    if not items:
        return ""
    return f"gr4ad recommend --model {shlex.quote(str(out))} --history {shlex.quote(','.join(items))} --top-k 10"


def serve_one_request(out: Path) -> None:
    """Starts the server on a free port, asks it once, shows the answer, stops it. Raises RuntimeError if it does not
    come up within a minute, or does not answer."""
    console = terminal.console()
    port_file = out / ".port"
    port_file.unlink(missing_ok=True)
    words = ["serve", "--model", str(out), "--port", "0", "--port_file", str(port_file)]
    server = subprocess.Popen(
        [sys.executable, "-m", "gr4ad.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not port_file.is_file():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the server did not start (exit code {server.poll()}): try `gr4ad serve --model {out}`"
                )
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port_file.read_text().strip()}/v1/recommend"
        history = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["sample_history"]
        console.print(f"\n[bold]POST {url}[/bold]\nhistory: {', '.join(history)}")
        answer = post(url, {"history": history, "top_k": 5})
        table = Table(title=f"served in {answer['latency_ms']:.0f} ms, beams {answer['beam_widths']}")
        for column in ("item_id", "title", "score", "value", "SID"):
            table.add_column(column, justify="right" if column in ("score", "value") else "left")
        for ad in answer["recommendations"]:
            value = "" if ad["value"] is None else f"{ad['value']:.1f} {ad['value_unit']}"
            table.add_row(
                ad["item_id"], str(ad["attributes"].get("title", "")), f"{ad['score']:.2f}", value, ad["sid"]
            )
        console.print(table)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
        port_file.unlink(missing_ok=True)
    console.print(f"server stopped. Try it yourself: gr4ad serve --model {os.fspath(out)}")


def post(url: str, body: dict) -> dict:
    """JSON answer to a JSON request. Raises RuntimeError if there is none."""
    request = Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=30) as response:
            return json.load(response)
    except URLError as error:
        raise RuntimeError(f"{url} did not answer: {error}") from error

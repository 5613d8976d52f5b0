"""How fast RSPO trains on lists: one reading of a context for all candidates, beside one reading for each.

    python benchmarks/rspo_speed.py --out benchmarks/results/rspo_speed.json

A step is loss, gradients and update of a batch of lists, without the reference, whose pass has the same two ways. The
naive way repeats the history for every candidate, as preference trainers for language models do; both ways give the
same loss, which is checked. Random weights and lists; rounds are interleaved, medians are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from gr4ad import GR4ADConfig, GR4ADForRecommendation
from gr4ad.cli import keep_freed_memory
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json
from gr4ad.trainers import rspo_loss


def lists_of(config: GR4ADConfig, lists: int, candidates: int, items: int) -> dict[str, torch.Tensor]:
    """Histories (lists, items * T), candidates (lists, n, T) and grades (lists, n), all drawn at random."""
    rng = torch.Generator().manual_seed(0)

    def sids(*shape: int) -> torch.Tensor:
        codes = [torch.randint(size, shape, generator=rng) for size in config.codebook_sizes]
        return torch.stack(codes, -1) + torch.tensor(config.level_offsets)

    grades = torch.randint(0, 4, (lists, candidates), generator=rng).float()
    return {"history": sids(lists, items).flatten(1), "candidates": sids(lists, candidates), "grades": grades}


def together(model: GR4ADForRecommendation, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logps = model(batch["history"], candidate_ids=batch["candidates"]).candidate_logps
    return rspo_loss(logps, batch["grades"])[0]


def one_by_one(model: GR4ADForRecommendation, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    lists, count, levels = batch["candidates"].shape
    history = batch["history"].repeat_interleave(count, 0)
    logps = model(history, candidate_ids=batch["candidates"].view(lists * count, 1, levels)).candidate_logps
    return rspo_loss(logps.view(lists, count), batch["grades"])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--candidates", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--items", type=int, default=100, help="Of a history.")
    parser.add_argument("--lists", type=int, default=8, help="Of a batch.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="The smallest run, for its form alone.")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    rounds, lists, items = (2, 2, 5) if arguments.smoke else (arguments.rounds, arguments.lists, arguments.items)
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "num_parallel_layers": 4}
    config = GR4ADConfig(**shape, num_context_layers=1, max_context_items=items)
    rows, ratios = [], {}
    for count in arguments.candidates:
        torch.manual_seed(0)
        model = GR4ADForRecommendation(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        batch = lists_of(config, lists, count, items)
        with torch.no_grad():
            losses = [way(model, batch).item() for way in (together, one_by_one)]
        if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
            raise SystemExit(f"The two ways disagree about the loss of {count} candidates: {losses}.")

        def step(way, model, batch, optimizer) -> float:
            start = time.perf_counter()
            optimizer.zero_grad()
            way(model, batch).backward()
            optimizer.step()
            return time.perf_counter() - start

        ways = {name: partial(step, way, model, batch, optimizer)
                for name, way in (("together", together), ("one by one", one_by_one))}  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, measure in ways.items():
                spent = measure()
                if turn:  # the first round warms up
                    seconds[name].append(spent)
        for name, spent in seconds.items():
            rates = sorted(lists / value for value in spent)
            rows.append(
                {
                    "name": f"{name}, n = {count}",
                    "metric": "lists_per_s",
                    "value": round(statistics.median(rates), 2),
                    "spread": round(rates[-1] - rates[0], 2),
                    "unit": "lists / s",
                }
            )
        pairs = [slow / fast for fast, slow in zip(*seconds.values(), strict=True)]
        ratios[f"lists_per_s_vs_one_by_one_n{count}"] = round(statistics.median(pairs), 2)
    result = {
        "command": "python benchmarks/rspo_speed.py --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "threads": arguments.threads,
        "seeds": [0],
        "shape": {**shape, "items": items, "lists": lists},
        "rows": rows,
        "ratios": ratios,
    }
    write_json(arguments.out, result)
    print(json.dumps({"rows": rows, "ratios": ratios}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()

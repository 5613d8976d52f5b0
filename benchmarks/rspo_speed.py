"""How fast RSPO trains on lists: one reading of a context for all candidates, beside one reading for each.

    python benchmarks/rspo_speed.py --out benchmarks/results/rspo_speed.json

A step is loss, gradients and update of a batch of lists, without the reference, whose pass has the same two ways. The
naive way repeats the history for every candidate, as preference trainers for language models do; both ways give the
same loss, which is checked. Random weights and lists; rounds are interleaved, medians are kept.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from measurement.results import Benchmark, rounds_row
from measurement.timing import interleaved, milliseconds, ratio

from gr4ad import GR4ADConfig, GR4ADForRecommendation
from gr4ad.trainers import rspo_loss

SHAPE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "num_parallel_layers": 4}


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


def step(way: Callable, model: GR4ADForRecommendation, batch: dict, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    way(model, batch).backward()
    optimizer.step()


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take(
        candidates=[4, 16, 64], items=(100, "Of a history."), lists=(8, "Of a batch."), rounds=15, threads=2
    )
    arguments = benchmark.start(words, rounds=2, lists=2, items=5)
    torch.set_num_threads(arguments.threads)
    lists = arguments.lists
    config = GR4ADConfig(**SHAPE, num_context_layers=1, max_context_items=arguments.items)
    rows, ratios = [], {}
    for count in arguments.candidates:
        torch.manual_seed(0)
        model = GR4ADForRecommendation(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        batch = lists_of(config, lists, count, arguments.items)
        ways = {"together": together, "one by one": one_by_one}
        with torch.no_grad():
            losses = [way(model, batch).item() for way in ways.values()]
        if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
            raise SystemExit(f"The two ways disagree about the loss of {count} candidates: {losses}.")
        steps = {
            name: partial(milliseconds, partial(step, way, model, batch, optimizer)) for name, way in ways.items()
        }
        times = interleaved(steps, arguments.rounds)
        rows += [
            rounds_row(f"{name}, n = {count}", "lists_per_s", 1000 * lists / spent, "lists / s")
            for name, spent in times.items()
        ]
        ratios[f"lists_per_s_vs_one_by_one_n{count}"] = ratio(times["one by one"], times["together"])
    shape = {**SHAPE, "items": arguments.items, "lists": lists}
    benchmark.write(arguments, rows, ratios, threads=arguments.threads, shape=shape)


if __name__ == "__main__":
    main()

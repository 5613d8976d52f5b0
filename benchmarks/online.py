"""Online learning after a planted drift: what it recovers of the revenue, what it loses, how soon it serves new ads.

    python benchmarks/online.py --out benchmarks/results/online.json --figure docs/figures/online.svg --seeds 0 1 2

A simulated market runs for some weeks; then fashion changes at once for most users (`shift_share`), and new ads keep
coming. A model trained before the change is served in two ways: frozen, and by `gr4ad serve` that follows `gr4ad
online`, which reads what the market's own system logs day by day: clicks, shown lists with their values, and new ads
by their embeddings. In the middle both processes are killed (SIGKILL) and started again. After every day the market
prices one list for each of the same users, in expectation, from every policy:

- `online`: as the server answers over HTTP;
- `frozen`: the model and the ads of before the change; `frozen, new ads`: with the ads that came since;
- `oracle`: on the last day, a model trained from scratch on the clicks since the change, with the ads of that day, and
  served from histories since the change; `retrained on all days`: the same from all clicks, before and after.

`recovered` is online over oracle revenue on the last day, `recovered_of_all_days` over that of the model retrained on
all days; `recovered_of_the_gap` is (online - frozen) / (oracle - frozen). Serving weights are the same for all and
were not tuned. Samples are counted by the trainer's checkpoint and compared with the number written. `seconds to be
served` runs from the moment a catalog file has its name to the first answer of the server that holds its ad.
"""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measurement import one_core  # noqa: F401  before numpy is loaded

# isort: split
import numpy as np
import torch
from datasets import disable_progress_bars
from matplotlib.figure import Figure
from measurement.figures import save_figure
from measurement.market_log import DAY, Log, content_embeddings, new_ads
from measurement.online_models import Size, known_lists, new_tokenizer, trained
from measurement.online_processes import STREAMS, WIDEST, Processes, write_file
from measurement.results import Benchmark, Row, seeds_row
from measurement.runs import kept

from gr4ad import Recommender, UASIDTokenizer
from gr4ad.market import AdMarket, MarketConfig
from gr4ad.online import CatalogChanges

logger = logging.getLogger("online")
ALL_DAYS = "retrained on all days"

FULL = Size(1200, 800, 80, 20, 14, 8, 300, ("32", "32", "32*"), 48, 5)
SMOKE = Size(150, 120, 12, 6, 2, 1, 40, ("8", "8", "8*"), 16, 1)


def run_seed(work: Path, seed: int, size: Size) -> dict:
    """Revenue of every policy by day since the change, and what was counted."""
    market = AdMarket(
        MarketConfig(
            users=size.users, ads=size.ads, accounts=size.accounts, days=size.before + size.after, horizon_days=1,
            new_ads=0.4, shift_day=size.before, shift_share=0.8, seed=seed,
        )
    )  # fmt: skip
    start = market.config.start_time
    change, end = start + size.before * DAY, market.config.end_time
    catalog = market.catalog()
    ids, log = catalog["item_id"].tolist(), Log.of(market)
    embeddings = content_embeddings(catalog)
    folder = work / f"seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    tokenizer, vectors = new_tokenizer(folder / "tokenizer", size, embeddings, ids, log, change)
    artifact = trained(folder / "before", size, tokenizer, vectors, log, 0, change, seed)
    logger.info("seed %d: trained on the days before the change", seed)

    rng = np.random.default_rng(seed)
    active = sorted(user for user in log.of_user if log.history(user, change)[0])
    users = sorted(rng.permutation(active)[: size.asked].tolist())
    places = market.config.positions + 1  # the runner-up prices the last place
    frozen, with_ads = Recommender.from_pretrained(artifact), Recommender.from_pretrained(artifact)

    def earned(lists: list[list[str]], moment: int) -> float:
        return 1000 * float(market.expected_revenue(users, lists, moment).mean())

    days: list[dict] = []
    written = dict.fromkeys(STREAMS, 0)
    latencies = []
    processes = Processes(folder, artifact, size)
    encoder = CatalogChanges(with_ads.tokenizer, artifact)
    try:
        for day in range(size.after + 1):
            now = change + day * DAY
            if day:
                latencies.append(feed_day(processes, log, ids, embeddings, now, day, written, size))
                for record in new_ads(log, ids, embeddings, now):
                    encoder.change(record, with_ads.tokenizer.index).apply(with_ads)
            histories = [log.history(user, now) for user in users]
            row = {
                "day": day,
                "online": earned(processes.lists(histories, places), now),
                "frozen": earned(known_lists(frozen, histories, places), now),
                "frozen, new ads": earned(known_lists(with_ads, histories, places), now),
                "best possible": earned(market.oracle_list(users, now, places).tolist(), now),
            }
            days.append(row)
            logger.info("seed %d: %s", seed, {name: round(value, 1) for name, value in row.items()})
        processes.stop_trainer()
        last = processes.last()
        [place] = (folder / "state").glob("checkpoint-*")
        state = json.loads((place / "online_state.json").read_text())
    finally:
        processes.kill()

    live = UASIDTokenizer.from_pretrained(place)
    places_of = {item: row for row, item in enumerate(ids)}
    rows = [places_of[item] for item in live.index.item_ids]

    def retrained(name: str, since: int) -> Recommender:
        return Recommender.from_pretrained(trained(folder / name, size, live, embeddings[rows], log, since, end, seed))

    histories = [log.history(user, end, change) for user in users]
    # Who did nothing since the change is served from what was before.
    histories = [own if own[0] else log.history(user, end) for own, user in zip(histories, users, strict=True)]
    days[-1]["oracle"] = earned(known_lists(retrained("oracle", change), histories, places), end)
    histories = [log.history(user, end) for user in users]
    days[-1][ALL_DAYS] = earned(known_lists(retrained("all", 0), histories, places), end)
    logger.info("seed %d: %s, %s", seed, days[-1], {**state["used"], "alarms": state["alarms"]})
    return {
        "days": days,
        "written": written,
        "used": state["used"],
        "refused": state["refused"],
        "steps": state["steps"],
        "alarms": last["alarms"],
        "versions": processes.root.current()[0],
        "latencies": [seconds for seconds in latencies if seconds is not None],
    }


def feed_day(
    processes: Processes,
    log: Log,
    ids: list[str],
    embeddings: np.ndarray,
    now: int,
    day: int,
    written: dict,
    size: Size,
) -> float | None:
    """Writes a day's logs, kills both processes in the middle of the middle one, and waits until all was used; returns
    the seconds until the day's first new ad was served."""
    name, since = f"{day:04d}", now - DAY
    catalog = new_ads(log, ids, embeddings, now)
    begun = write_file(processes.folder / "catalog", name, catalog) if catalog else None
    clicks = [entry for entry in log.clicks if since <= entry[0] < now]
    vsl = []
    for moment, user, item, value in clicks:
        items, values = log.history(user, moment)
        if items:
            vsl.append({"items": items, "values": values, "target_items": [item], "target_values": [value]})
    rl = []
    for place, (moment, user, candidates, rewards) in enumerate(log.lists):
        if since <= moment < now and place % 8 == 0 and len(set(rewards)) > 1:
            items, values = log.history(user, moment)
            if items:
                rl.append({"items": items, "values": values, "candidates": candidates, "rewards": rewards})
    half = len(vsl) // 2
    write_file(processes.folder / "rl", name, rl)
    write_file(processes.folder / "vsl", f"{name}a", vsl[:half])
    seconds = None
    if catalog and begun is not None:
        near = next(item for moment, _, item, _ in log.clicks if moment < since)
        seconds = processes.seconds_to_be_served(
            catalog[0]["item_id"], near, begun, [WIDEST] * len(size.codebooks), WIDEST
        )
    if day == (size.after + 1) // 2:
        before = processes.used().get("vsl", 0)
        # In the middle of the day's batches, between two checkpoints as likely as not.
        processes.wait(lambda: processes.used().get("vsl", 0) > before or before >= written["vsl"] + half)
        logger.info("both are killed at %s", processes.last().get("used"))
        processes.restart()
    write_file(processes.folder / "vsl", f"{name}b", vsl[half:])
    for stream, records in (("vsl", vsl), ("rl", rl), ("catalog", catalog)):
        written[stream] += len(records)
    processes.wait(lambda: all(processes.used().get(s, 0) >= count for s, count in written.items()))
    time.sleep(2)  # the server looks every half second, and loads what it finds
    return seconds


def summary(seeds: list[dict]) -> tuple[list[Row], dict]:
    """Rows and ratios over seeds: means and sample standard deviations."""

    money = "fen per 1,000 requests"
    last = [run["days"][-1] for run in seeds]
    rows = [
        seeds_row(name, "revenue on the last day", [day[name] for day in last], money)
        for name in ("online", "frozen", "frozen, new ads", "oracle", ALL_DAYS, "best possible")
    ]
    rows += [
        seeds_row("online", "revenue before the change", [run["days"][0]["online"] for run in seeds], money),
        seeds_row("online", "seconds to be served, mean", [np.mean(run["latencies"]) for run in seeds], "s"),
        seeds_row("online", "seconds to be served, largest", [max(run["latencies"]) for run in seeds], "s"),
        seeds_row("online", "samples written", [sum(run["written"].values()) for run in seeds], "records"),
        seeds_row("online", "samples used", [sum(run["used"].values()) for run in seeds], "records"),
        seeds_row("online", "samples lost or used twice",
            [sum(abs(run["written"][s] - run["used"].get(s, 0)) for s in run["written"]) for run in seeds], "records"),
        seeds_row("online", "steps", [run["steps"] for run in seeds], "steps"),
        seeds_row("online", "versions published", [run["versions"] for run in seeds], "versions"),
        seeds_row("online", "publications refused", [run["alarms"] for run in seeds], "times"),
    ]  # fmt: skip
    ratios = {
        "recovered": [day["online"] / day["oracle"] for day in last],
        "recovered_of_all_days": [day["online"] / day[ALL_DAYS] for day in last],
        "frozen_share": [day["frozen"] / day["oracle"] for day in last],
        "recovered_of_the_gap": [(day["online"] - day["frozen"]) / (day["oracle"] - day["frozen"]) for day in last],
    }
    return rows, {name: {"mean": float(np.mean(values)), "by_seed": values} for name, values in ratios.items()}


def draw(seeds: list[dict], path: Path) -> None:
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = {"online": "#1b7f4d", "frozen": "#8a8a8a", "frozen, new ads": "#c98a1b"}
    for name, colour in colours.items():
        shares = np.array([[day[name] / day["best possible"] for day in run["days"]] for run in seeds])
        axes.plot(shares.mean(0), color=colour, label=name, marker="o", markersize=3)
        if len(seeds) > 1:
            axes.fill_between(range(shares.shape[1]), shares.min(0), shares.max(0), color=colour, alpha=0.15)
    for name, mark in (("oracle", "*"), (ALL_DAYS, "D")):
        shares = np.array([run["days"][-1][name] / run["days"][-1]["best possible"] for run in seeds])
        axes.plot(len(seeds[0]["days"]) - 1, shares.mean(), mark, color="#1b4f9c", markersize=7, label=name)
    killed = (len(seeds[0]["days"])) // 2
    axes.axvline(killed, color="#b03030", linewidth=0.8, linestyle=":")
    axes.annotate("kill -9", (killed, axes.get_ylim()[0]), fontsize=8, color="#b03030", ha="right", va="bottom")
    axes.set_xlabel("days since fashion changed")
    axes.set_ylabel("revenue, share of the best possible")
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="One small market.")
    benchmark.add_argument("--work", type=Path, metavar="OUT", help="Folder for the runs, where finished seeds stay.")
    benchmark.take("--figure", seeds=[0, 1, 2])
    arguments = benchmark.start(words)
    for chatty in ("httpx", "sentence_transformers", "faiss", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    disable_progress_bars()
    torch.set_num_threads(1)
    size = SMOKE if arguments.smoke else FULL
    seeds = arguments.seeds[:1] if arguments.smoke else arguments.seeds
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        runs = [kept(work / f"seed{seed}.json", partial(run_seed, work, seed, size)) for seed in seeds]
    rows, ratios = summary(runs)
    benchmark.write(arguments, rows, ratios, seeds=seeds, runs=runs)
    if arguments.figure is not None:
        draw(runs, arguments.figure)


if __name__ == "__main__":
    main()

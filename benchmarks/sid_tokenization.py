"""Semantic IDs: what each part of MGMR does to collisions, and time, memory and error beside faiss and semantic-id.

    python benchmarks/sid_tokenization.py --data DIR --work OUT --out benchmarks/results/tokenize.json

Quality: both logs below DIR (amazon_beauty/, complete_journey/; left out without DIR), text embeddings, three seeds,
one code space of 2^24.
Scale: `--ads` x 256 embeddings (one cluster in 50 ads, sizes n^-0.5), codebooks 4096/1024/256, ten Lloyd steps a level
everywhere (ours: five plain, five balanced; both libraries sample 256 points a code), each contender in a process of
its own, in turns; time is fit and codes of all ads, peak memory that of the process with its input. What balance costs
in error depends on how uneven the clusters are: `skew` rows repeat it smaller, for sizes n^0, n^-0.5 and n^-0.8.
semantic-id is measured at `--peer-ads` and 64/32/16 codes, balanced as ours, one start.

Needs `pip install semantic-id==0.2.5` beside the development environment for that part; it is left out if absent.
"""

import importlib.util
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from measurement.own_process import in_own_process
from measurement.results import Benchmark, Row, result_row
from measurement.runs import FinishedRun, recipe_of, run_up_to
from measurement.sid_contenders import contend

from gr4ad.pipeline.embedding import ad_embedder
from gr4ad.pipeline.tokenizing import business_keys
from gr4ad.tokenization import MGMRQuantizer, sid_quality
from gr4ad.tokenization.embedding_fusion import EmbeddingFusion
from gr4ad.tokenization.sid_quality import interaction_exposure

SIZES, SKEW_SIZES, PEER_SIZES = (4096, 1024, 256), (512, 128, 32), (64, 32, 16)
SKEW, SKEWS, SKEW_ADS = 0.5, (0.0, 0.5, 0.8), 120_000
VARIANTS = {  # name: (codebook sizes, balanced steps, collision-aware)
    "RQ-KMeans, unbalanced": (["256", "256", "256"], 0, False),
    "RQ-KMeans": (["256", "256", "256"], 5, False),
    "+ multi-resolution": (["1024", "256", "64"], 5, False),
    "+ multi-granularity": (["1024", "256", "64*"], 5, False),
    "+ collision-aware": (["1024", "256", "64*"], 5, True),
    "multi-resolution, collision-aware": (["1024", "256", "64"], 5, True),
}
SMOKE_VARIANTS = {
    "RQ-KMeans": (["8", "8", "8"], 5, False),
    "+ multi-granularity": (["32", "8", "2*"], 5, False),
    "+ collision-aware": (["32", "8", "2*"], 5, True),
}
BUSINESS_FIELDS = {"amazon_beauty": ["item_id"], "complete_journey": ["account_id", "item_id"]}


def made_up_embeddings(num_ads: int, seed: int, skew: float) -> np.ndarray:
    """Unit vectors float32 (num_ads, 256): clusters of sizes n^-skew, spectrum k^-1/2, spread 0.6 of theirs."""
    rng = np.random.default_rng(seed)
    spectrum = (np.arange(1, 257) ** -0.5).astype(np.float32)
    centres = rng.normal(size=(num_ads // 50, 256)).astype(np.float32) * spectrum
    weights = np.arange(1, len(centres) + 1) ** -skew
    cluster = rng.choice(len(centres), num_ads, p=weights / weights.sum())
    vectors = centres[cluster] + 0.6 * rng.normal(size=(num_ads, 256)).astype(np.float32) * spectrum
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def race(
    names: list[str], work: Path, ads: int, skew: float, sizes: tuple[int, ...], repeats: int, apart: bool = True
) -> dict[str, list]:
    """Runs contenders on made-up embeddings in turns, `apart`: each in a process of its own; name -> what `contend`
    found."""
    path = work / "made_up.npy"
    np.save(path, made_up_embeddings(ads, 0, skew))
    results: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            given = (name, str(path), sizes)
            results[name].append(in_own_process(contend, *given) if apart else contend(*given))
            logging.info("%s: %s", name, results[name][-1])
    path.unlink()
    return results


def scale_rows(label: str, results: dict[str, list[dict]]) -> list[Row]:
    units = {"seconds": "s", "error": "squared distance per ad", "peak_gb": "GB", "fullest": "of the cap"}
    rows = []
    for name, runs in results.items():
        for metric, unit in units.items():
            values = [run[metric] for run in runs]
            rows.append(result_row(f"{label}/{name}/{metric}", metric, np.median(values), unit, np.ptp(values)))
    return rows


def middles_ratio(results: dict[str, list[dict]], metric: str, above: str, below: str) -> float:
    return float(np.divide(*(np.median([run[metric] for run in results[name]]) for name in (above, below))))


def quality_rows(data_root: Path | None, work: Path, seeds: list[int], smoke: bool) -> list[Row]:
    """Cpr, Col, Util and shared interactions of each variant on both logs; mean and half range over seeds."""
    rows = []
    for log, fields in list(BUSINESS_FIELDS.items())[: 1 if smoke else None]:
        recipe = recipe_of(log, work, smoke=smoke, data=data_root and data_root / log)
        run_up_to(recipe, work / log, "data")
        data = FinishedRun(work / log).data
        content, _ = ad_embedder(recipe.embed).embed(data.catalog)
        vectors = EmbeddingFusion.fit(content, None, collaborative_weight=0).transform(content)
        keys = business_keys(data, fields)
        place = {item: row for row, item in enumerate(data.catalog["item_id"])}
        counts = np.zeros(len(place))
        np.add.at(counts, [place[item] for items in data.train["items"] for item in items], 1)
        for name, (sizes, balanced, distinct) in (SMOKE_VARIANTS if smoke else VARIANTS).items():
            measured = []
            for seed in seeds:
                quantizer = MGMRQuantizer(sizes, balanced_iterations=balanced, distinct_last=distinct, seed=seed)
                codes = quantizer.fit(vectors, keys)
                quality = sid_quality(codes, quantizer.codebook_sizes)
                shares = {metric: quality[metric] for metric in ("cpr", "col", "util")}
                measured.append({**shares, "interactions_in_shared_sids": interaction_exposure(codes, counts)})
            for metric in measured[0]:
                values = [one[metric] for one in measured]
                unit = "items per SID" if metric == "cpr" else "share"
                rows.append(result_row(f"{log}/{name}/{metric}", metric, np.mean(values), unit, np.ptp(values) / 2))
            logging.info("%s, %s: %s", log, name, {k: round(v, 5) for k, v in measured[0].items()})
    return rows


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="Few ads, one repetition; a simulated market in place of the logs.")
    benchmark.take(
        "--data", "--work", ads=(1_000_000, "0 leaves the scale part out."), peer_ads=5_000, repeats=2, seeds=[0, 1, 2]
    )
    arguments = benchmark.start(words, ads=2_000, peer_ads=1_000, repeats=1, seeds=[0])
    sizes, skew_sizes, skew_ads = SIZES, SKEW_SIZES, SKEW_ADS
    if arguments.smoke:
        sizes, skew_sizes, skew_ads = (32, 16, 8), (16, 8, 4), 1_000
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    versions: dict[str, str] = {}
    if arguments.ads:
        found = race(["faiss", "gr4ad"], arguments.work, arguments.ads, SKEW, sizes, arguments.repeats)
        rows += scale_rows(f"{arguments.ads} ads", found)
        for name, metric in (("time", "seconds"), ("error", "error"), ("peak_memory", "peak_gb")):
            ratios[f"{name}_vs_faiss"] = middles_ratio(found, metric, "gr4ad", "faiss")
        for skew in SKEWS:
            found = race(["faiss", "gr4ad"], arguments.work, skew_ads, skew, skew_sizes, 1, not arguments.smoke)
            rows += scale_rows(f"skew {skew}, {skew_ads} ads", found)
            ratios[f"error_vs_faiss_skew_{skew}"] = middles_ratio(found, "error", "gr4ad", "faiss")
    if arguments.peer_ads and importlib.util.find_spec("semantic_id"):
        names = ["constrained", "kmeans", "gr4ad"]
        found = race(names, arguments.work, arguments.peer_ads, SKEW, PEER_SIZES, arguments.repeats)
        labels = {"constrained": "semantic-id, balanced", "kmeans": "semantic-id, unbalanced", "gr4ad": "gr4ad"}
        rows += scale_rows(f"{arguments.peer_ads} ads", {labels[name]: runs for name, runs in found.items()})
        ratios["speedup_vs_semantic_id"] = middles_ratio(found, "seconds", "constrained", "gr4ad")
        ratios["error_vs_semantic_id"] = middles_ratio(found, "error", "gr4ad", "constrained")
        versions["semantic-id"] = version("semantic-id")
    if arguments.data or arguments.smoke:
        rows += quality_rows(arguments.data, arguments.work, arguments.seeds, arguments.smoke)
    benchmark.write(arguments, rows, ratios, seeds=arguments.seeds, versions=versions)


if __name__ == "__main__":
    main()

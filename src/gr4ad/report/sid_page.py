"""One self-contained HTML page about a set of semantic IDs: how well they tell items apart, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import tables
from .page import Tile, page_environment, write_page
from .plots import usage_plot
from .sid_plots import HUES, MapPlot, Swatch, embedding_map, purity_plot, sid_size_plot


@dataclass
class EmbeddingMap:
    """A sample of the items, laid out in the plane by their embeddings.

    Attributes:
        points (float, (n, 2)): Places; only distances between near points mean something.
        titles: n texts.
        sids: n SIDs as text.
        first_codes (int64, (n,)): Level-1 code of each item.
        categories: n names, None for an item without one; empty when the catalog has no usable category.
    """

    points: np.ndarray
    titles: list[str]
    sids: list[str]
    first_codes: np.ndarray
    categories: list[str | None] = field(default_factory=list)


@dataclass
class SIDReport:
    """The content of the page.

    Attributes:
        title: What the SIDs are of.
        items, sids: Counts >= 1: items of the catalog, distinct SIDs among them.
        quality: As `gr4ad.tokenization.sid_quality` returns it, with `interactions_in_shared_sids`, [0, 1].
        levels: For each level `size` (codes), `hashed` (whether it is a hash of business fields), `used` ([0, 1],
            share of its codes), `perplexity` (codes, 1..size), `largest_share` ([0, 1], items of its largest code).
        code_counts: For each level the items of each of its codes.
        items_per_sid: Number of items -> SIDs that have as many.
        collisions: The largest, largest first: `sid` (text), `items`, `interactions` (counts), `titles` (some of
            them, each with the number of items that have it) and `untold`, the items of other titles.
        examples: Some level-1 codes: `code`, `token` (text), `items` (count), `titles` (some of them), and with
            categories `category`, the most frequent, and `category_share`, [0, 1].
        category_column: Column that the categories come from; None when there is no usable one.
        category_problem: Why there is none, a sentence; "" when there is one.
        category_count: Distinct categories.
        purity: For each prefix length as `gr4ad.tokenization.sid_quality.prefix_purity` returns it; empty without
            categories.
        embedding_map: Items in the plane; None for too few items.
        interactions: Interactions of the training log, a count.
        seed: Seed of samples and deals.
    """

    title: str
    items: int
    sids: int
    quality: dict[str, float]
    levels: list[dict[str, Any]]
    code_counts: list[list[int]]
    items_per_sid: dict[int, int]
    collisions: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    category_column: str | None = None
    category_problem: str = ""
    category_count: int = 0
    purity: list[dict[str, float]] = field(default_factory=list)
    embedding_map: EmbeddingMap | None = None
    interactions: int = 0
    seed: int = 0


def write_sid_report(out_path: str | Path, report: SIDReport) -> None:
    """Writes the page: no scripts, no other files, readable offline. A killed writer leaves the former page whole.

    Args:
        out_path: File to write; its folder is made.
        report: The content; sections of empty parts are left out.
    """
    environment = page_environment()
    environment.filters["count"] = tables.count_text
    text = environment.get_template("sid_report.html").render(
        report=report,
        tiles=_tiles(report),
        level_rows=[_level_row(number, level) for number, level in enumerate(report.levels, start=1)],
        usage=[usage_plot(number, counts) for number, counts in enumerate(report.code_counts, start=1)],
        sizes=sid_size_plot(report.items_per_sid),
        purity=purity_plot(report.purity) if report.purity else None,
        purity_words=[_purity_words(number, figures) for number, figures in enumerate(report.purity, start=1)],
        purity_rows=[_purity_row(number, figures) for number, figures in enumerate(report.purity, start=1)],
        maps=_maps(report),
        # The examples wear the colours of their points in the map.
        examples=[(number, example) for number, example in enumerate(report.examples[:HUES], start=1)],
    )
    write_page(out_path, text)


def _tiles(report: SIDReport) -> list[Tile]:
    quality = report.quality
    space = "codes of all levels multiplied"
    shared = quality["interactions_in_shared_sids"]
    return [
        Tile("Items", tables.count_text(report.items), "in the catalog"),
        Tile("Semantic IDs in use", tables.count_text(report.sids), f"each {len(report.levels)} codes long"),
        Tile("Items per SID (Cpr)", f"{quality['cpr']:.4g}", "1 = every item has one of its own"),
        Tile("SIDs that are shared (Col)", _percent(quality["col"]), "of the SIDs in use; 0 = none"),
        Tile("Code space in use (Util)", f"{1000 * quality['util']:.3g}‰", f"SIDs in use / possible ({space})"),
        Tile("Interactions in shared SIDs", _percent(shared), "of the training log; 0 = none"),
    ]


def _percent(share: float) -> str:
    """A share in [0, 1] as text that does not round something to nothing."""
    return "0%" if share == 0 else "<0.01%" if share < 1e-4 else f"{100 * share:.3g}%"


def _level_row(number: int, level: Mapping[str, Any]) -> list[str]:
    size = level["size"]
    return [
        f"{number}",
        tables.count_text(size),
        "hash of business fields" if level["hashed"] else "quantized embedding",
        f"{_percent(level['used'])}",
        f"{level['perplexity']:.1f}",
        f"{_percent(level['perplexity'] / size)}",
        _percent(level["largest_share"]),
        f"{level['largest_share'] * size:.2f}×",
    ]


def _purity_row(number: int, figures: Mapping[str, float]) -> list[str]:
    def share(key: str) -> str:
        return f"{figures[key]:.3f}" if tables.is_known(figures[key]) else "–"

    return [
        f"{number}",
        tables.count_text(figures["prefixes"]),
        share("purity"),
        share("chance"),
        share("adjusted").replace("-", "−"),
        tables.count_text(figures["shared_items"]),
        share("shared_purity"),
        share("shared_chance"),
    ]


def _purity_words(number: int, figures: Mapping[str, float]) -> str:
    """What the purity of one prefix length says, in a sentence."""
    start = "The first code" if number == 1 else f"The first {number} codes"
    if not figures["shared_items"]:
        return f"{start} name every item alone: pure by definition, which says nothing."
    share = figures["shared_items"] / figures["items"]
    of = "the items" if share == 1 else f"the {_percent(share)} of items whose prefix is shared"
    verb = "names" if number == 1 else "name"
    reached, chance = 100 * figures["shared_purity"], 100 * figures["shared_chance"]
    return f"{start} {verb} the category of {reached:.0f}% of {of}; by chance it would be {chance:.0f}%."


def _maps(report: SIDReport) -> list[MapPlot]:
    """The same places twice: coloured by category, and by the codes of the examples."""
    placed = report.embedding_map
    if placed is None:
        return []
    maps = []
    texts = [f"{title} · {sid}" for title, sid in zip(placed.titles, placed.sids, strict=True)]
    if placed.categories:
        names, counts = np.unique([name for name in placed.categories if name is not None], return_counts=True)
        top = [str(names[place]) for place in np.argsort(-counts, kind="stable")[:HUES]]
        hue_of = {name: number for number, name in enumerate(top, start=1)}
        hues = np.array([hue_of.get(name or "", 0) for name in placed.categories])
        legend = [Swatch(hue, name, f"{np.mean(hues == hue):.0%}") for name, hue in hue_of.items()]
        if (hues == 0).any():
            legend.append(Swatch(0, "everything else", f"{np.mean(hues == 0):.0%}"))
        note = "One colour in one place = the embedding knows the category. Beside each: share of the points"
        named = [f"{text} · {name or 'no category'}" for text, name in zip(texts, placed.categories, strict=True)]
        maps.append(embedding_map(f"By {report.category_column}", note, placed.points, hues, named, legend))
    if report.examples:
        hue_of_code = {example["code"]: number for number, example in enumerate(report.examples[:HUES], start=1)}
        hues = np.array([hue_of_code.get(int(code), 0) for code in placed.first_codes])
        legend = [Swatch(hue_of_code[example["code"]], example["token"]) for example in report.examples[:HUES]]
        legend.append(Swatch(0, "other codes"))
        note = "The codes shown below. One colour in one place = items of a code are alike; scattered = they are not"
        maps.append(embedding_map("By level-1 code", note, placed.points, hues, texts, legend, coloured_radius=3.6))
    return maps

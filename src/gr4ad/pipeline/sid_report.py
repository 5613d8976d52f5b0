"""The quality report of semantic IDs, from a finished tokenize folder and the data it was built on."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from gr4ad.data import load_prepared
from gr4ad.pipeline.runner import write_json
from gr4ad.report.sid_page import EmbeddingMap, SIDReport, write_sid_report

CATEGORY_COLUMNS = ("category", "product_category", "department", "industry")
MAP_ITEMS = 3000  # t-SNE takes about 15 s for as many on one core
MAP_COMPONENTS = 50  # of the embedding, before t-SNE
LARGEST_COLLISIONS = 10
COLLISION_TITLES = 4
EXAMPLE_CODES = 6
EXAMPLE_TITLES = 5
ROWS_READ = 16384  # of the embeddings at once


def choose_category_column(columns: Sequence[str], wanted: str | None) -> str | None:
    """The catalog column that prefixes are compared with.

    Args:
        columns: Columns of the catalog.
        wanted: A column, or None for the first of `category`, `product_category`, `department`, `industry`.

    Returns:
        Its name; None when none is wanted and the catalog has none of these.

    Raises:
        ValueError: If `wanted` is not in the catalog.
    """
    if wanted is None:
        return next((name for name in CATEGORY_COLUMNS if name in columns), None)
    if wanted not in columns:
        raise ValueError(
            f"`category_column` is {wanted!r}, which the catalog does not have. It has: {', '.join(columns)}."
        )
    return wanted


def report_sids(
    tokenizer_dir: str | Path,
    data_dir: str | Path,
    out_path: str | Path,
    *,
    category_column: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures the SIDs of a tokenizer and writes the page, and `sid_quality.json` with its numbers beside it.

    Args:
        tokenizer_dir: Folder of `gr4ad tokenize`.
        data_dir: Folder of `gr4ad data` that the tokenizer was built on.
        out_path: The HTML file to write; its folder is made.
        category_column: Catalog column that prefixes are compared with; default as in `choose_category_column`.
        seed: Seed of the samples, of the categories dealt by chance, and of t-SNE.

    Returns:
        The numbers: `items`, `sids`, `interactions` (counts), `quality`, `levels`, `items_per_sid`, `collisions`,
        `category_column`, `category_problem`, `categories` (a count) and `prefix_purity`; units and ranges as in
        `SIDReport`.

    Raises:
        ValueError: If a folder is not what it should be, the two do not belong together, or the catalog lacks
            `category_column`.
    """
    from gr4ad.tokenization.sid_quality import interaction_exposure, prefix_groups, prefix_purity, sid_quality

    folder, out = Path(tokenizer_dir), Path(out_path)
    sizes, index = _load_tokenizer(folder)
    data = load_prepared(data_dir)
    column = choose_category_column(data.catalog.column_names, category_column)
    if data.catalog["item_id"][:] != index.item_ids.tolist():
        raise ValueError(
            f"{folder}: was built on another catalog than {data_dir}: their items differ. Name the data folder that "
            "the tokenizer was built on."
        )
    codes, plain_sizes = index.codes, [size for size, _ in sizes]
    events = Counter(item for items in data.train["items"] for item in items)
    item_counts = np.array([events[item] for item in index.item_ids], dtype=np.int64)
    titles = item_titles(index.columns, data.catalog, index.item_ids)

    quality = sid_quality(codes, plain_sizes)
    quality["interactions_in_shared_sids"] = interaction_exposure(codes, item_counts)
    code_counts = [np.bincount(codes[:, t], minlength=size) for t, size in enumerate(plain_sizes)]
    groups = prefix_groups(codes, len(sizes))
    sid_sizes = np.bincount(groups)
    categories, problem = usable_categories(data.catalog[column][:] if column else None, column)
    names = [name for name in categories if name is not None]
    report = SIDReport(
        title=f"Semantic IDs of {len(codes):,} items".replace(",", "\u202f"),
        items=len(codes),
        sids=len(sid_sizes),
        quality=quality,
        levels=[
            {
                "size": size,
                "hashed": hashed,
                "used": quality[f"used_{level + 1}"],
                "perplexity": quality[f"perplexity_{level + 1}"],
                "largest_share": int(code_counts[level].max()) / len(codes),
            }
            for level, (size, hashed) in enumerate(sizes)
        ],
        code_counts=[counts.tolist() for counts in code_counts],
        items_per_sid={size: int(sids) for size, sids in enumerate(np.bincount(sid_sizes)) if sids},
        collisions=_largest_collisions(codes, groups, sid_sizes, item_counts, titles),
        examples=_example_codes(codes[:, 0], code_counts[0], titles, categories, seed),
        category_column=None if problem else column,
        category_problem=problem,
        category_count=len(set(names)),
        purity=[prefix_purity(codes, categories, t + 1, seed=seed) for t in range(len(sizes))] if categories else [],
        embedding_map=_embedding_map(folder / "item_embeddings.safetensors", codes, titles, categories, seed),
        interactions=int(item_counts.sum()),
        seed=seed,
    )
    same = ("items", "sids", "interactions", "quality", "levels", "items_per_sid", "category_column")
    numbers = {
        **{name: vars(report)[name] for name in same},
        "collisions": [{key: row[key] for key in ("sid", "items", "interactions")} for row in report.collisions],
        "category_problem": problem,
        "categories": report.category_count,
        # JSON has no nan.
        "prefix_purity": [
            {key: value if math.isfinite(value) else None for key, value in figures.items()}
            for figures in report.purity
        ],
    }
    write_sid_report(out, report)
    write_json(out.parent / "sid_quality.json", numbers)
    return numbers


def _load_tokenizer(folder: Path) -> tuple[list[tuple[int, bool]], Any]:
    """(size, hashed) of each level, and the item table."""
    from gr4ad.tokenization import SIDIndex
    from gr4ad.tokenization.mgmr_quantizer import LevelSize

    try:
        config = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
        levels = [LevelSize.parse(size) for size in config["codebook_sizes"]]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}: no finished tokenize folder ({error}). Allowed: a folder written by `gr4ad tokenize`. Build "
            "the tokenizer first, or correct the name."
        ) from error
    return [(level.size, level.hashed) for level in levels], SIDIndex.load(folder / "items.parquet")


def item_titles(columns: Mapping[str, Sequence], catalog: Any, item_ids: Sequence[str]) -> list[str]:
    """What to call each item: its title, else what the tokenizer displays of it, else its id."""
    shown = {"title": catalog["title"][:]} if "title" in catalog.column_names else columns
    if not shown:
        return [str(item) for item in item_ids]
    rows = (" / ".join(str(value) for value in row if value) for row in zip(*shown.values(), strict=True))
    return [" ".join(text.split()) or str(item) for text, item in zip(rows, item_ids, strict=True)]


def usable_categories(values: Sequence[Any] | None, column: str | None) -> tuple[list[str | None], str]:
    """The category of each item as text (None: it has none), and ""; or an empty list and a sentence that says why
    the values cannot group items."""
    if values is None:
        return [], f"the catalog has none of the columns {', '.join(CATEGORY_COLUMNS)}; name one as category_column."
    if any(isinstance(value, list | dict) for value in values):
        return [], f"column {column} holds lists, and an item needs one category."
    # nan, the only value that differs from itself, is how a number is absent.
    texts = [None if value is None or value != value else str(value).strip() or None for value in values]
    items, distinct = sum(text is not None for text in texts), len({text for text in texts if text is not None})
    if distinct < 2:
        return [], f"column {column} has {distinct} value{'s' if distinct != 1 else ''}, which groups nothing."
    if distinct > items / 2:
        return [], f"column {column} has {distinct:,} values for {items:,} items, too many to group them."
    return texts, ""


def _sid_text(sid: Sequence[int]) -> str:
    return "".join(f"<{chr(ord('a') + level)}_{code}>" for level, code in enumerate(sid))


def _largest_collisions(
    codes: np.ndarray, groups: np.ndarray, sid_sizes: np.ndarray, item_counts: np.ndarray, titles: list[str]
) -> list[dict[str, Any]]:
    """The SIDs of most items; of equally many items, the one of more interactions."""
    traffic = np.bincount(groups, weights=item_counts)
    rows = []
    for group in np.lexsort((-traffic, -sid_sizes))[:LARGEST_COLLISIONS]:
        if sid_sizes[group] < 2:
            break
        members = np.flatnonzero(groups == group)
        members = members[np.argsort(-item_counts[members], kind="stable")]
        alike = Counter(titles[member] for member in members)  # keeps the order
        shown = list(alike.items())[:COLLISION_TITLES]
        rows.append(
            {
                "sid": _sid_text(codes[members[0]]),
                "items": int(sid_sizes[group]),
                "interactions": int(traffic[group]),
                "titles": shown,
                "untold": len(members) - sum(count for _, count in shown),
            }
        )
    return rows


def _example_codes(
    first: np.ndarray, counts: np.ndarray, titles: list[str], categories: list[str | None], seed: int
) -> list[dict[str, Any]]:
    """Random level-1 codes among the larger half of those in use, with random items of each."""
    rng = np.random.default_rng(seed)
    used = np.flatnonzero(counts)
    frequent = used[counts[used] >= np.median(counts[used])]
    rows = []
    for code in np.sort(rng.choice(frequent, min(EXAMPLE_CODES, len(frequent)), replace=False)):
        members = np.flatnonzero(first == code)
        shown = dict.fromkeys(titles[member] for member in rng.permutation(members))  # equal titles once
        known = Counter(name for member in members if categories and (name := categories[member]) is not None)
        category, items = known.most_common(1)[0] if known else (None, 0)
        rows.append(
            {
                "code": int(code),
                "token": _sid_text([code]),
                "items": len(members),
                "titles": list(shown)[:EXAMPLE_TITLES],
                "category": category,
                "category_share": items / len(members),
            }
        )
    return rows


def _embedding_map(
    path: Path, codes: np.ndarray, titles: list[str], categories: list[str | None], seed: int
) -> EmbeddingMap | None:
    """t-SNE of at most `MAP_ITEMS` items; None for fewer than 4, which make no picture."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(codes) < 4:
        return None
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(codes), min(MAP_ITEMS, len(codes)), replace=False))
    vectors = _read_rows(path, rows)
    components = min(MAP_COMPONENTS, *vectors.shape)
    reduced = PCA(components, random_state=seed).fit_transform(vectors.astype(np.float64))
    # A perplexity is a number of neighbours: a third of the points at most, or all are everyone's neighbours.
    perplexity = min(30.0, (len(rows) - 1) / 3)
    # Started at random where fewer than two components are there to start from.
    start = "pca" if components > 1 else "random"
    points = TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced)
    return EmbeddingMap(
        points,
        [titles[row][:80] for row in rows],
        [_sid_text(codes[row]) for row in rows],
        codes[rows, 0],
        [categories[row] for row in rows] if categories else [],
    )


def _read_rows(path: Path, rows: np.ndarray) -> np.ndarray:
    """Some rows (ascending) of the embeddings, float32 (n, d), without holding all of them."""
    with safe_open(path, framework="numpy") as file:
        stored = file.get_slice("item_embeddings")
        total, parts = stored.get_shape()[0], []
        for start in range(0, total, ROWS_READ):
            inside = rows[(rows >= start) & (rows < start + ROWS_READ)]
            if len(inside):
                parts.append(stored[start : min(start + ROWS_READ, total)][inside - start])
    return np.concatenate(parts)

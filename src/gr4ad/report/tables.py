"""Figures as table rows: one formatting for the page and for the model card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OURS = "ours"
NAMES = {OURS: "GR4AD (this run)", "item_knn": "Item-kNN"}
PROTOCOLS = {"test": "All items may be recommended", "test_history_excluded": "Items of the history excluded"}
METRICS = {
    "recall@10": "Recall@10",
    "ndcg@10": "NDCG@10",
    "recall@5": "Recall@5",
    "ndcg@5": "NDCG@5",
    "revenue@10": "Revenue@10",
    "value_ndcg@10": "Value NDCG@10",
    "coverage@10": "Coverage@10",
    "invalid@10": "Invalid@10",
    "illegal_sids": "Illegal SIDs",
}
LOWER_IS_BETTER = ("invalid@10", "illegal_sids")


@dataclass(frozen=True)
class Cell:
    """text: the figure; error: its standard error, "" when unknown; best: the best figure of its column."""

    text: str
    error: str = ""
    best: bool = False


@dataclass(frozen=True)
class MetricTable:
    """Systems (rows) by metrics (columns) of one protocol.

    protocol: its key; title: in words; columns: headings; keys: metric of each column; rows: (name, is ours, cells)
    with the own model first; users: evaluated users, None when unknown.
    """

    protocol: str
    title: str
    columns: list[str]
    keys: list[str]
    rows: list[tuple[str, bool, list[Cell]]]
    users: int | None


def system_name(key: str) -> str:
    """`ours` -> "GR4AD (this run)"; `last_items` -> "Last items"; names with capitals stay as they are."""
    if key in NAMES:
        return NAMES[key]
    return key.replace("_", " ").capitalize() if key == key.lower() else key


def metric_table(protocol: str, systems: Mapping[str, Mapping[str, float]]) -> MetricTable | None:
    """The table of one protocol; None when no system has a known metric."""
    keys = [key for key in METRICS if any(is_known(figures.get(key)) for figures in systems.values())]
    if not keys:
        return None
    order = sorted(systems, key=lambda system: system != OURS)  # stable: baselines keep their order
    columns: list[list[Cell]] = []
    for key in keys:
        figures = [systems[system].get(key) for system in order]
        known = [figure for figure in figures if figure is not None and is_known(figure)]
        best = (min if key in LOWER_IS_BETTER else max)(known)
        decimals = _decimals(key, known)
        # A column in which all are equal has no winner.
        contested = len(known) > 1 and min(known) < max(known)
        columns.append(
            [
                _cell(figure, systems[system].get(f"{key}_se"), decimals, contested and figure == best)
                for system, figure in zip(order, figures, strict=True)
            ]
        )
    rows = [
        (system_name(system), system == OURS, [column[place] for column in columns])
        for place, system in enumerate(order)
    ]
    users = next((int(figures["users"]) for figures in systems.values() if is_known(figures.get("users"))), None)
    title = PROTOCOLS.get(protocol, protocol.replace("_", " ").capitalize())
    return MetricTable(protocol, title, [METRICS[key] for key in keys], keys, rows, users)


def metric_tables(metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[MetricTable]:
    """One table a protocol, without the empty ones."""
    tables = [metric_table(protocol, systems) for protocol, systems in metrics.items()]
    return [table for table in tables if table is not None]


def best_baseline(systems: Mapping[str, Mapping[str, float]], metric: str) -> tuple[str, float] | None:
    """(name, figure) of the strongest system besides the own model; None without one."""
    others = {
        name: figures[metric] for name, figures in systems.items() if name != OURS and is_known(figures.get(metric))
    }
    if not others:
        return None
    name = max(others, key=lambda system: others[system])
    return system_name(name), others[name]


def codebook_rows(quality: Mapping[str, float], code_counts: Sequence[Sequence[int]]) -> list[list[str]]:
    """For each level: name, codes, codes in use, share, perplexity, items of the largest code; "–" where unknown."""
    levels = max(len(code_counts), sum(key.startswith("used_") for key in quality))
    rows = []
    for level in range(levels):
        counts = list(code_counts[level]) if level < len(code_counts) else []
        used, perplexity = quality.get(f"used_{level + 1}"), quality.get(f"perplexity_{level + 1}")
        if used is None and counts:
            used = sum(count > 0 for count in counts) / len(counts)
        rows.append(
            [
                f"{level + 1}",
                count_text(len(counts)) if counts else "–",
                count_text(sum(count > 0 for count in counts)) if counts else "–",
                "–" if used is None else f"{100 * used:.1f}%",
                "–" if perplexity is None else f"{perplexity:.1f}",
                count_text(max(counts)) if counts else "–",
            ]
        )
    return rows


CODEBOOK_COLUMNS = ["Level", "Codes", "In use", "Share", "Perplexity", "Largest code"]


def collision_rows(quality: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """(name, figure, meaning) of the figures about whole SIDs."""
    shown = [
        ("cpr", "Items per SID", "{:.3f}", "1 is best: every ad has an SID of its own"),
        ("col", "SIDs with more than one item", "{:.2%}", "of the SIDs in use"),
        ("items_in_shared_sids", "Items in a shared SID", "{:.2%}", "of the catalog"),
        ("util", "Code space in use", "{:.2e}", "SIDs in use / possible SIDs"),
    ]
    return [
        (name, form.format(quality[key]), meaning) for key, name, form, meaning in shown if is_known(quality.get(key))
    ]


def split_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and one row a split (train, validation, test) of a `data.json`."""
    unit = f" ({summary['value_unit']})" if summary.get("value_unit") else ""
    names = [name for name in ("train", "validation", "test") if isinstance(summary.get(name), Mapping)]
    columns = {
        "users": "Users",
        "mean_history": "History, items",
        "mean_targets": "Targets, items",
        "mean_target_value": f"Target value{unit}",
    }
    keys = [key for key in columns if any(key in summary[name] for name in names)]
    rows = []
    for name in names:
        figures = summary[name]
        cells = ["–" if key not in figures else number_text(figures[key]) for key in keys]
        left_out = {reason: count for reason, count in figures.get("left_out", {}).items() if count}
        told = ", ".join(f"{count_text(count)} {reason.replace('_', ' ')}" for reason, count in left_out.items())
        rows.append([name.capitalize(), *cells, told or "–"])
    return ["Split", *(columns[key] for key in keys), "Users left out"], rows


def split_text(split: Any) -> str:
    """The split of a `data.json` in one sentence, "" when unknown."""
    if not isinstance(split, Mapping):
        return str(split or "")
    if split.get("kind") == "leave_one_out":
        return "Leave-one-out: the last event of a user is the test target, the one before it the validation target."
    if split.get("kind") == "temporal":
        end = f" to {split['test_end']}" if split.get("test_end") is not None else ""
        return (
            f"Temporal, by {split.get('column') or 'time'}: validation from {split.get('validation_start')}, "
            f"test from {split.get('test_start')}{end}; everything before is training."
        )
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in split.items() if value is not None)


def data_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of the counts of a `data.json`."""
    facts = [
        (label, count_text(summary[key]))
        for key, label in (("users", "Users"), ("items", "Ads"), ("events", "Events"))
        if key in summary
    ]
    facts += [
        (f"{name.capitalize()}s", count_text(count))
        for name, count in summary.get("events_by_name", {}).items()
        if count and count != summary.get("events")
    ]
    if summary.get("value_unit"):
        facts.append(("Unit of value", str(summary["value_unit"])))
    return facts


def figure_text(metric: str, figure: float) -> str:
    """One figure of a metric, as in a table of its own."""
    return _cell(figure, None, _decimals(metric, [figure]), False).text


def count_text(count: float) -> str:
    """1234567 -> "1 234 567" with thin spaces, which break neither in HTML nor in Markdown."""
    return f"{int(count):,}".replace(",", "\u202f")


def number_text(number: float) -> str:
    """A count as a count, anything else with about four digits."""
    if float(number).is_integer():
        return count_text(number)
    return f"{number:.2f}" if abs(number) >= 0.1 else f"{number:.4f}"


def duration_text(seconds: float) -> str:
    """0.42 s, 41 s, 12 min 5 s, 3 h 7 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def is_known(figure: float | None) -> bool:
    """Whether a figure is there and finite: standard errors of one user are nan."""
    return figure is not None and math.isfinite(figure)


def _decimals(key: str, known: Sequence[float]) -> int:
    """One number of decimals a column, so that its figures line up: four digits of the largest."""
    if key == "illegal_sids":
        return 0
    if not key.startswith("revenue"):
        return 4
    largest = max(map(abs, known))
    return 4 if largest < 1 else max(0, 3 - math.floor(math.log10(largest)))


def _cell(figure: float | None, error: float | None, decimals: int, best: bool) -> Cell:
    if figure is None or not math.isfinite(figure):
        return Cell("–")
    text = count_text(figure) if decimals == 0 else f"{figure:.{decimals}f}"
    spread = "" if error is None or not math.isfinite(error) else f"{error:.{decimals}f}"
    return Cell(text, spread, best)


__all__ = [
    "CODEBOOK_COLUMNS",
    "OURS",
    "Cell",
    "MetricTable",
    "METRICS",
    "best_baseline",
    "codebook_rows",
    "collision_rows",
    "count_text",
    "data_facts",
    "duration_text",
    "figure_text",
    "is_known",
    "metric_table",
    "metric_tables",
    "number_text",
    "split_rows",
    "split_text",
    "system_name",
]

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
REACH = {
    "coverage@10": "Coverage@10",
    "cold0_recall@10": "Recall@10, 0 events",
    "cold5_recall@10": "Recall@10, 5 events at most",
    "shared_sid@10": "Shared SIDs@10",
}
"""Metrics of the table about which items are reached."""
COMPARED = ("recall@10", "ndcg@10", "revenue@10", "value_ndcg@10")
LOWER_IS_BETTER = ("invalid@10", "illegal_sids", "shared_sid@10")


@dataclass(frozen=True)
class Cell:
    """text: the figure; error: its standard error, "" when unknown; best: the best figure of its column; interval:
    "0.0421 to 0.0475", "" when unknown."""

    text: str
    error: str = ""
    best: bool = False
    interval: str = ""


@dataclass(frozen=True)
class PairedCell:
    """text: the difference; interval: its ends; relative: as a share of theirs, "" when unknown; clear: 0 lies
    outside the interval."""

    text: str
    interval: str
    relative: str
    clear: bool


@dataclass(frozen=True)
class MetricTable:
    """Systems (rows) by metrics (columns) of one protocol.

    protocol: its key; title: in words; columns: headings; rows: (name, is ours, cells) with the own model first;
    users: evaluated users, None when unknown.
    """

    protocol: str
    title: str
    columns: list[str]
    rows: list[tuple[str, bool, list[Cell]]]
    users: int | None

    @property
    def heading(self) -> str:
        """The title, with the number of users where it is known."""
        return self.title if self.users is None else f"{self.title} ({count_text(self.users)} users)"


def system_name(key: str) -> str:
    """`ours` -> "GR4AD (this run)"; `last_items` -> "Last items"; names with capitals stay as they are."""
    if key in NAMES:
        return NAMES[key]
    return key.replace("_", " ").capitalize() if key == key.lower() else key


def metric_table(
    protocol: str, systems: Mapping[str, Mapping[str, float]], metrics: Mapping[str, str] = METRICS
) -> MetricTable | None:
    """The table of one protocol; None when no system has a known metric. metrics: key -> heading of the columns."""
    keys = [key for key in metrics if any(is_known(figures.get(key)) for figures in systems.values())]
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
                _cell(key, systems[system], decimals, contested and figure == best)
                for system, figure in zip(order, figures, strict=True)
            ]
        )
    rows = [
        (system_name(system), system == OURS, [column[place] for column in columns])
        for place, system in enumerate(order)
    ]
    users = next((int(figures["users"]) for figures in systems.values() if is_known(figures.get("users"))), None)
    title = PROTOCOLS.get(protocol, protocol.replace("_", " ").capitalize())
    return MetricTable(protocol, title, [metrics[key] for key in keys], rows, users)


def metric_tables(metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[MetricTable]:
    """One table a protocol, without the empty ones."""
    return [table for name, systems in metrics.items() if (table := metric_table(name, systems)) is not None]


def reach_table(systems: Mapping[str, Mapping[str, float]]) -> tuple[MetricTable | None, str]:
    """Which items the systems reach, and how many targets the cold columns stand on; (None, "") without figures."""
    if not any(is_known(figures.get("shared_sid@10")) for figures in systems.values()):
        return None, ""
    known: Mapping[str, float] = next(figures for figures in systems.values() if "shared_sid@10" in figures)
    told = [
        f"{count_text(known[f'cold{limit}_targets'])} held-out items of {count_text(known[f'cold{limit}_users'])} "
        f"users have {text} training events"
        for limit, text in ((0, "no"), (5, "5 or fewer"))
        if f"cold{limit}_targets" in known
    ]
    shared = known.get("shared_sid_targets")
    if is_known(shared):
        told.append(f"{100 * float(shared or 0):.1f}% of all held-out items share their SID with another ad")
    return metric_table("", systems, REACH), "; ".join(told) + "."


def paired_rows(
    paired: Mapping[str, Mapping[str, Mapping[str, float | None]]], metrics: Sequence[str] = COMPARED
) -> tuple[list[str], list[tuple[str, list[PairedCell]]]]:
    """Headings and one row a system, of the differences ours less theirs; metrics that none has are left out."""
    keys = [key for key in metrics if any(key in figures for figures in paired.values())]
    rows = [
        (system_name(system), [paired_cell(key, figures.get(key, {})) for key in keys])
        for system, figures in paired.items()
    ]
    return [METRICS.get(key, key) for key in keys], rows


def paired_cell(metric: str, figures: Mapping[str, float | None]) -> PairedCell:
    """One difference with its interval, "–" where unknown."""
    difference, low, high = (figures.get(name) for name in ("difference", "low", "high"))
    if difference is None or low is None or high is None:
        return PairedCell("–", "", "", False)
    decimals = _decimals(metric, [difference, low, high])
    share = figures.get("relative")
    return PairedCell(
        _signed(difference, decimals),
        f"{_signed(low, decimals)} to {_signed(high, decimals)}",
        "" if share is None else f"{_signed(100 * share, 1)}%",
        not low <= 0 <= high,
    )


def mean_texts(metric: str, score: Mapping[str, Any]) -> tuple[str, str]:
    """ "0.0475 ± 0.0004", without the spread for one seed, and "0.0421 to 0.0529", of a score of `compare_runs`."""
    mean, low, high = (figure_text(metric, score[name]) for name in ("mean", "low", "high"))
    spread = "" if score["spread"] is None else f" ± {figure_text(metric, score['spread'])}"
    return mean + spread, f"{low} to {high}"


def comparison_rows(comparison: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[PairedCell]]]]:
    """As `paired_rows`, of what `compare_runs` found: each system but the first less the first."""
    metrics = comparison["metrics"]
    _, *others = ((name, figures["metrics"]) for name, figures in comparison["systems"].items())
    rows = [
        (name, [paired_cell(metric, scores.get(metric, {}).get("difference", {})) for metric in metrics])
        for name, scores in others
    ]
    return [METRICS.get(metric, metric) for metric in metrics], rows


def interval_text(metric: str, figures: Mapping[str, float]) -> str:
    """ "0.0421 to 0.0475", or "" without an interval."""
    low, high = figures.get(f"{metric}_low"), figures.get(f"{metric}_high")
    if low is None or high is None or not (is_known(low) and is_known(high)):
        return ""
    decimals = _decimals(metric, [low, high])
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


CALIBRATION_PARTS = {"held_out": "All held-out ads", "served@10": "Held-out ads in the first ten"}
CALIBRATION_COLUMNS = [
    "Pairs",
    "Number",
    "Mean true",
    "Mean predicted",
    "Predicted / true",
    "95%",
    "ECE",
    "ECE / mean",
]


def calibration_rows(calibration: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One row a part of `value_calibration`, under `CALIBRATION_COLUMNS`; "–" where unknown."""

    def text(figure: float | None, form: str) -> str:
        return "–" if figure is None else form.format(figure)

    rows = []
    for part, figures in calibration.items():
        low, high = figures.get("ratio_low"), figures.get("ratio_high")
        rows.append(
            [
                CALIBRATION_PARTS.get(part, part),
                count_text(figures["pairs"]),
                f"{figures['mean_true']:.4g}",
                f"{figures['mean_predicted']:.4g}",
                text(figures["ratio"], "{:.3f}"),
                "–" if low is None or high is None else f"{low:.3f} to {high:.3f}",
                f"{figures['ece']:.3g}",
                text(None if figures["ece_relative"] is None else 100 * figures["ece_relative"], "{:.1f}%"),
            ]
        )
    return rows


def headline(systems: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float, tuple[str, float] | None]]:
    """The main figures of the own model: (metric, figure, name and figure of the strongest baseline or None)."""
    ours = systems.get(OURS, {})
    return [
        (metric, ours[metric], best_baseline(systems, metric)) for metric in COMPARED[:3] if is_known(ours.get(metric))
    ]


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


def dropped_rows(summary: Mapping[str, Any]) -> dict[str, int]:
    """Rows left out by reason of a `data.json`, without the reasons of none."""
    return {reason: count for reason, count in summary.get("dropped", {}).items() if count}


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
    if "cross_domain" in summary:
        entries, users, strangers = (
            count_text(summary["cross_domain"][key]) for key in ("entries", "users", "unmatched_users")
        )
        told = f"{entries} entries of {users} users; {strangers} users of the file are not in the log"
        facts.append(("Done elsewhere", told))
    return facts


def figure_text(metric: str, figure: float) -> str:
    """One figure of a metric, as in a table of its own."""
    return _cell(metric, {metric: figure}, _decimals(metric, [figure]), False).text


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


def _signed(figure: float, decimals: int) -> str:
    return f"{figure:+.{decimals}f}".replace("-", "−")


def _cell(metric: str, figures: Mapping[str, float], decimals: int, best: bool) -> Cell:
    figure, error = figures.get(metric), figures.get(f"{metric}_se")
    if figure is None or not math.isfinite(figure):
        return Cell("–")
    text = count_text(figure) if decimals == 0 else f"{figure:.{decimals}f}"
    spread = "" if error is None or not math.isfinite(error) else f"{error:.{decimals}f}"
    return Cell(text, spread, best, interval_text(metric, figures))

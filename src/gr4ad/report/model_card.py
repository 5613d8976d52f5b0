"""The model card of a trained folder, filled from the run's own figures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from . import tables
from .accounting_rows import accounting_warnings
from .contents import RunReport
from .markdown import markdown_table, metric_markdown, one_line

CARD_FILE = "README.md"
TAGS = ["gr4ad", "generative-recommendation", "semantic-id", "advertising"]


def write_model_card(
    folder: str | Path, report: RunReport, *, model_config: dict, recipe_name: str, recipe_text: str
) -> Path:
    """Writes `README.md` into a model folder.

    Args:
        folder: the folder of the model; made when missing. Its name stands in the usage examples.
        report: figures and facts of the run; empty parts are left out.
        model_config: `GR4ADConfig.to_dict()`; needs `codebook_sizes`.
        recipe_name, recipe_text: file name and content (YAML) of the recipe; an empty text leaves it out.

    Returns:
        The path of the card.

    Raises:
        ValueError: `model_config` has no `codebook_sizes`.
    """
    if not model_config.get("codebook_sizes"):
        raise ValueError(
            "`codebook_sizes` of `model_config` is missing or empty. Allowed: one size a level. Pass "
            "`model.config.to_dict()`."
        )
    card_data = ModelCardData(license="apache-2.0", library_name="gr4ad", tags=list(TAGS))
    history = [str(item["item_id"]) for item in report.beam_tree.get("history", [])][-3:] or ["ITEM_1", "ITEM_2"]
    codebook_rows = tables.codebook_rows(report.sid_quality, report.code_counts)
    split_columns, split_rows = tables.split_rows(report.data_summary)
    out = Path(folder)
    with as_file(files("gr4ad.model_cards") / "model_card.md") as template:
        card = ModelCard.from_template(
            card_data,
            template_path=str(template),
            title=one_line(report.title),
            has_values=bool(model_config.get("num_value_buckets")),
            item_head=bool(model_config.get("item_head")),
            value_unit=one_line(report.value_unit),
            headline=_headline(report),
            split_text=one_line(tables.split_text(report.data_summary.get("split"))),
            data_list=_list(_data_lines(report.data_summary)),
            split_table=markdown_table(split_columns, split_rows) if split_rows else "",
            codebook_sizes=model_config["codebook_sizes"],
            codebook_table=markdown_table(tables.CODEBOOK_COLUMNS, codebook_rows) if codebook_rows else "",
            collision_table=_collision_table(report.sid_quality),
            training_list=_list(_training_lines(report, model_config)),
            evaluation=[(table.heading, _metric_table(table)) for table in tables.metric_tables(report.metrics)],
            name=json.dumps(out.resolve().name, ensure_ascii=False),
            example=json.dumps([history], ensure_ascii=False),
            command=report.command,
            recipe_name=recipe_name,
            recipe_text=recipe_text.strip("\n"),
            fence=_fence(report.command + recipe_text),
            notes=_list(one_line(note) for note in report.notes),
        )
    out.mkdir(parents=True, exist_ok=True)
    path, partial = out / CARD_FILE, out / f".{CARD_FILE}.partial"
    card.save(partial)
    os.replace(partial, path)
    return path


def _headline(report: RunReport) -> str:
    """The main figures beside the strongest baseline, in a sentence."""
    told = []
    for metric, figure, rival in tables.headline(report.metrics.get("test", {})):
        against = "" if rival is None else f" ({one_line(rival[0])}: {tables.figure_text(metric, rival[1])})"
        told.append(f"{tables.METRICS[metric]} **{tables.figure_text(metric, figure)}**{against}")
    return f"On the test users: {', '.join(told)}. In brackets: the best baseline." if told else ""


def _data_lines(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"{name}: {one_line(text)}" for name, text in tables.data_facts(summary)]
    lines += [f"To know: {one_line(text)}" for text in accounting_warnings(summary)]
    return lines + [
        f"Rows left out, {one_line(reason.replace('_', ' '))}: {tables.count_text(count)}"
        for reason, count in tables.dropped_rows(summary).items()
    ]


def _training_lines(report: RunReport, config: Mapping[str, Any]) -> list[str]:
    lines = []
    if "num_hidden_layers" in config:
        parallel = config.get("num_parallel_layers")
        shape = f"{config['num_hidden_layers']} decoder layers"
        shape += f", the first {parallel} shared by all beams (LazyAR)" if parallel else ""
        lines.append(
            f"Architecture: {shape}; width {config.get('hidden_size')}, {config.get('num_attention_heads')} heads"
        )
    if "max_context_items" in config:
        lines.append(f"Longest history: {config['max_context_items']} items")
    for name, log in (
        ("Value-aware supervised learning (VSL)", report.training_log),
        ("Alignment (RSPO)", report.alignment_log),
    ):
        steps = [entry["step"] for entry in log if "step" in entry]
        epochs = [entry["epoch"] for entry in log if "epoch" in entry]
        if steps and epochs:
            lines.append(f"{name}: {tables.count_text(max(steps))} steps, {max(epochs):.4g} epochs")
    if not report.alignment_log:
        lines.append("Alignment (RSPO): none")
    if report.seed is not None:
        lines.append(f"Seed: {report.seed}")
    if report.timings:
        lines.append(f"Time, all stages: {tables.duration_text(sum(report.timings.values()))}")
    for label, facts in (("Machine", report.machine), ("Versions", report.versions)):
        if facts:
            lines.append(f"{label}: {', '.join(f'{name} {one_line(fact)}' for name, fact in facts.items())}")
    return lines


def _metric_table(table: tables.MetricTable) -> str:
    return metric_markdown(table, lambda cell: f" ± {cell.error}" if cell.error else "")


def _collision_table(quality: Mapping[str, float]) -> str:
    rows = tables.collision_rows(quality)
    return markdown_table(["Collisions", "Figure", "Meaning"], rows, "lrl") if rows else ""


def _list(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _fence(text: str) -> str:
    """A fence longer than any run of backticks in `text`."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))

"""Finished folders of `gr4ad run`, variants of recipes, and a recipe that runs in seconds."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import BertConfig, BertModel, BertTokenizer

from gr4ad import UASIDTokenizer
from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline import Recipe, load_recipe, run_recipe
from gr4ad.pipeline.comparing import read_groups
from gr4ad.pipeline.config_fields import config_class
from gr4ad.pipeline.recipe import NEED_TORCH
from gr4ad.pipeline.run import run_stage
from gr4ad.pipeline.runner import StageRunner, write_json
from gr4ad.pipeline.stages import SECTIONS, STAGES
from gr4ad.trainers.evaluation import Sequences, SequenceTable

Changes = Mapping[str, Mapping[str, Any] | None]
SHARED_STAGES = ("market", "data", "tune", "embed", "tokenize", "train", "neighbours", "reward", "align")
SMOKE_RECIPE = """
name: smoke
seed: 1
market: {{users: 120, ads: 120, accounts: 12, days: 10, horizon_days: 2, requests_per_user_day: 2.0, seed: 1}}
data: {{users: users.parquet, user_features: [age_band, region, device], split: leave_one_out, history_events: [click],
  value_unit: fen eCPM}}
embed: {{encoder: {encoder}, text_columns: [title, category], category_columns: [category, brand],
  category_dimension: 4}}
cooccurrence: {{epochs: 1, dimension: 8, batch_size: 32}}
tokenize: {{codebook_sizes: ["8", "8", "8*"], business_fields: [account_id, item_id], num_value_buckets: 4}}
model: {{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 3, num_parallel_layers: 1, max_context_items: 8,
  item_head: true, item_head_copy: true}}
train: {{num_train_epochs: 1, per_device_train_batch_size: 32, save_strategy: "no", learning_rate: 0.003}}
neighbours: {{neighbours: 5, distance_decay: 0.8, backward: 0.25}}
lists: {{source: impressions, max_lists: 64}}
align: {{num_train_epochs: 1, per_device_train_batch_size: 32, save_strategy: "no", learning_rate: 0.001}}
evaluate: {{beam_widths: [4, 16, 32], item_weights: [0.0, 1.0], neighbour_weights: [0.0, 0.7], tuning_users: 40,
  metric: recall@10}}
"""


@dataclass(frozen=True)
class FinishedRun:
    """A folder of `gr4ad run`; what it holds is read when it is asked for."""

    folder: Path

    def stage(self, name: str) -> Path:
        return self.folder / "stages" / name

    @cached_property
    def data(self) -> PreparedData:
        return load_prepared(self.stage("data") / "prepared")

    @cached_property
    def tokenizer(self) -> UASIDTokenizer:
        return UASIDTokenizer.from_pretrained(self.stage("tokenize") / "tokenizer")

    @cached_property
    def item_ids(self) -> list[str]:
        return list(self.data.catalog["item_id"])

    def held_out(self, split: Dataset) -> Sequences:
        return SequenceTable.from_dataset(split, self.item_ids).held_out


def kept(file: Path, make: Callable[[], dict]) -> dict:
    """What `make` returns, out of `file` if it was made before."""
    if not file.is_file():
        found = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
    return json.loads(file.read_text(encoding="utf-8"))


def named_runs(words: Sequence[str]) -> dict[str, Path]:
    return {name: Path(folders[0]) for name, folders in read_groups(words).items()}


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def changed(recipe: Recipe, changes: Changes) -> Recipe:
    """The recipe with some fields of its sections replaced; None leaves a section out."""
    sections: dict[str, Any] = {}
    for section, fields in changes.items():
        before = getattr(recipe, section)  # None: a section that the recipe leaves out
        if fields is None:
            sections[section] = None
        elif section in NEED_TORCH:
            sections[section] = {**(before or {}), **fields}
        else:
            sections[section] = replace(before or config_class(SECTIONS[section])(), **fields)
    return replace(recipe, **sections)


def run_variant(recipe: Recipe, base: Path, folder: Path, command: str) -> dict:
    """Runs a variant and returns its metrics; stages of `base` that its key agrees with are kept, the others are made
    anew."""
    with_stages_of(base, folder)
    return run_recipe(recipe, folder, command=command)


def with_stages_of(base: Path, folder: Path) -> None:
    """Gives a new folder the stages of another; a run keeps those that its own settings agree with."""
    if not (folder / "stages").is_dir():
        for stage in SHARED_STAGES:
            if (base / "stages" / stage).is_dir():
                # Files are replaced, never written into: a link is as good as a copy.
                shutil.copytree(base / "stages" / stage, folder / "stages" / stage, copy_function=os.link)


def run_up_to(recipe: Recipe, out: Path, last: str) -> StageRunner:
    """Runs the stages of a recipe up to `last`, without an artifact; finished ones are kept."""
    runner = StageRunner(out)
    for stage in STAGES:
        if stage.in_recipe(vars(recipe)):
            run_stage(runner, stage, vars(recipe), recipe.seed)
        if stage.name == "market" and recipe.market is not None:
            recipe.data.root = str(runner.folder("market"))
        if stage.name == last:
            break
    return runner


def smoke_recipe(folder: Path) -> Path:
    """A recipe of a small simulated market, with a text encoder of random weights; its file, in `folder`."""
    encoder = folder / "smoke_encoder"
    encoder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (encoder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=128, **size)).save_pretrained(encoder)
    BertTokenizer(str(encoder / "vocab.txt"), model_max_length=128).save_pretrained(encoder)
    recipe = folder / "smoke.yaml"
    recipe.write_text(SMOKE_RECIPE.format(encoder=encoder), encoding="utf-8")
    return recipe


def recipe_of(
    name: str, work: Path, *, smoke: bool, data: str | Path | None = None, seed: int | None = None
) -> Recipe:
    """The recipe `name`, or with `smoke` the one that runs in seconds, which needs no data."""
    if smoke:
        return load_recipe(smoke_recipe(work), seed=seed)
    return load_recipe(name, data_root=data, seed=seed)

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import set_seed

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.tokenization import SIDIndex, UASIDTokenizer


@pytest.fixture(scope="session")
def account_artifact(tiny_artifact, tmp_path_factory) -> Path:
    """The tiny artifact's ads, of 8 accounts (every sixth ad of none), and a model that reads times and the
    cross-domain sequence of at most 4 entries, and has item neighbours; it ranks by all its scores."""
    folder = tmp_path_factory.mktemp("account_artifact")
    tokenizer = UASIDTokenizer.from_pretrained(tiny_artifact, num_time_buckets=8, num_cross_domain_items=50)
    index = tokenizer.index
    accounts = [None if n % 6 == 0 else f"account_{n % 8}" for n in range(len(index))]
    tokenizer.index = SIDIndex(index.item_ids.tolist(), index.codes, columns={**index.columns, "account_id": accounts})
    config = copy.deepcopy(GR4ADForRecommendation.from_pretrained(tiny_artifact).config)
    config.num_time_buckets, config.num_cross_domain_items, config.max_cross_domain_items = 8, 50, 4
    set_seed(0)
    model = GR4ADForRecommendation(config)
    neighbours = torch.randint(1, config.num_items, (config.num_items, 3))
    model.set_item_neighbours(neighbours, torch.rand(neighbours.shape), 0.8)
    serving = replace(RankingWeights.from_pretrained(str(tiny_artifact)), item_weight=0.5, neighbour_weight=0.3)
    for part in (model, tokenizer, serving):
        part.save_pretrained(folder)
    return folder

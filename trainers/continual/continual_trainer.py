# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Online learning, one step at a time: VSL on new engagements and RSPO on new lists in one update."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.tokenization import SIDIndex, UASIDTokenizer
from gr4ad.tokenization.peer_vectors import extend_tables

from ..finite_training import NonFiniteTrainingError
from ..rspo.preference_lists import RSPOCollator
from ..rspo.rspo_objective import candidate_scores, preference_objective
from ..rspo.trl_bases import disable_dropout_in_model
from ..vsl.vsl_collator import VSLCollator
from .continual_config import ContinualConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


class ContinualTrainer:
    """
    Keeps training a [`GR4ADForRecommendation`] on records as they come (arXiv 2602.22732, section on online learning).

    Unlike `VSLTrainer` and `RSPOTrainer` it has no data set, no epochs and no schedule: whoever calls it decides what
    a step learns from. The losses and collators are theirs. Of an engagement only the new targets are learned: what
    came before was, when it was new. The optimizer lives as long as the trainer, also where new ads extend the item
    tables, and all that a later step depends on is in `state_tensors` and the model.

    ```python
    trainer = ContinualTrainer(model, tokenizer, ContinualConfig())
    records = LogRecords(tokenizer, trainer.config, trainer.max_items)
    metrics = trainer.step([records.engagement(record)[0] for record in log], [])
    ```

    Args:
        model: Trained; it is trained on in place. tokenizer: Its index grows by `adopt`.
    """

    def __init__(self, model: GR4ADForRecommendation, tokenizer: UASIDTokenizer, config: ContinualConfig):
        limit = model.config.max_context_items
        if config.max_items is not None and config.max_items > limit:
            raise ValueError(
                f"`max_items` must be at most the model's `max_context_items`, {limit}. Received: {config.max_items}."
            )
        if config.item_weight and not model.config.item_head:
            raise ValueError(
                f"`item_weight` = {config.item_weight} needs an item head, and the model has none. Set it to 0."
            )
        model.config.check_tokenizer(tokenizer)
        if config.disable_dropout:
            disable_dropout_in_model(model)
        torch.manual_seed(config.seed)
        self.model, self.tokenizer, self.config = model.train(), tokenizer, config
        self.max_items, self.max_cross_domain = config.max_items or limit, model.config.max_cross_domain_items
        self.reference = copy.deepcopy(model).eval().requires_grad_(False)
        self.steps = 0
        self.vsl_collator = VSLCollator(tokenizer)
        self.rspo_collator = RSPOCollator(
            tokenizer, self.max_items, self.max_cross_domain, with_items=config.item_weight > 0
        )
        self.trie = model.build_trie(tokenizer, removed=True)
        self._set_moments({})

    def _moments(self) -> dict[str, torch.Tensor]:
        """What the optimizer knows of each parameter, as KIND/PARAMETER."""
        return {
            f"{kind}/{name}": value
            for name, parameter in self.model.named_parameters()
            for kind, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _set_moments(self, moments: Mapping[str, torch.Tensor]) -> None:
        """A new optimizer with these moments; 0 for rows that a parameter has got since."""
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        for name, parameter in self.model.named_parameters():
            if f"step/{name}" in moments:
                state = {kind: torch.zeros_like(parameter) for kind in MOMENTS}
                for kind, grown in state.items():
                    known = moments[f"{kind}/{name}"]
                    grown[tuple(map(slice, known.shape))] = known
                self.optimizer.state[parameter] = {"step": moments[f"step/{name}"].clone(), **state}

    def step(self, engagements: Sequence[Mapping[str, Any]], lists: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """One update from rows of [`LogRecords`], either of which may be empty.

        Returns:
            `loss`; `vsl` and `vsl_sid`, `vsl_value`, `vsl_mtp`, `vsl_item`, means over targets; `rl` and the metrics
            of `RSPOTrainer` as `rl_NAME`; `grad_norm`.

        Raises:
            ValueError: If both are empty. NonFiniteTrainingError: If loss or gradient is; the weights are as before.
        """
        if not engagements and not lists:
            raise ValueError("A step needs records. Received: no engagement and no list.")
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (self.steps + 1) / max(1, config.warmup_steps))
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.model.device)
        metrics: dict[str, float] = {}
        if engagements:
            part, metrics = self.vsl_loss(engagements)
            loss = loss + part
        if lists:
            part, named = self.rl_loss(lists)
            loss, metrics = loss + config.rl_weight * part, metrics | named
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        if not (loss.isfinite() and norm.isfinite()):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteTrainingError(
                f"Step {self.steps + 1}: the loss is {float(loss.detach())} and the gradient's norm {float(norm)}. "
                f"Parts: {', '.join(f'{name} {value:g}' for name, value in metrics.items())}. Lower "
                "`learning_rate`, and see whether the values of the last records are right."
            )
        self.optimizer.step()
        self.count_values(engagements)
        self.steps += 1
        return {"loss": float(loss.detach()), **metrics, "grad_norm": float(norm)}

    def vsl_loss(self, rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean over the new targets of all rows, which may differ in what they have."""
        batch = fresh_targets(self.vsl_collator(rows), rows)
        targets = sum(row["fresh"] for row in rows)
        count = targets * self.tokenizer.num_levels
        outputs = self.model(**self._moved(batch), num_items_in_batch=count, trie=self.trie)
        parts = {f"vsl_{name}": float(part) for name, part in outputs.losses.items()}
        return outputs.loss, {"vsl": float(outputs.loss.detach()), **parts}

    def count_values(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Counts what the new targets were worth, where the model does and the records say so."""
        if self.model.item_values is None:
            return
        for row in rows:
            if row["fresh"] and "fresh_values" in row:
                items = torch.as_tensor(row["item_ids"][-row["fresh"] :], device=self.model.device)
                self.model.item_values.count(items, torch.as_tensor(row["fresh_values"], device=self.model.device))

    def rl_loss(self, rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean over lists, which may differ in what they have; those with `ref_logps` are one batch, and those without
        any are another."""
        loss = torch.zeros((), device=self.model.device)
        sums: dict[str, float] = defaultdict(float)
        reference = self.reference_logps if self.config.reference == "published" else None
        groups = [[row for row in rows if ("ref_logps" in row) is referred] for referred in (True, False)]
        for group in filter(None, groups):
            share = len(group) / len(rows)
            batch = self._moved(self.rspo_collator(group))
            part, metrics, _ = preference_objective(self.model, batch, self.config, reference, trie=self.trie)
            loss = loss + share * part
            for name, value in metrics.items():
                sums[f"rl_{name}"] += share * float(value)
        return loss, {"rl": float(loss.detach()), **sums}

    def reference_logps(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """log p of the candidates under the weights that were last published, (B, n)."""
        return candidate_scores(self.reference(**batch, trie=self.trie), self.config.item_weight)

    def _moved(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    def adopt(self, index: SIDIndex) -> None:
        """Takes an index that has grown or changed: the tokenizer's, and rows for its new ads in the item tables of
        model and reference. New rows start without momentum."""
        self.tokenizer.index = index
        self.trie = self.model.build_trie(self.tokenizer, removed=True)
        moments = self._moments()
        extend_tables(self.reference, index)
        self.reference.requires_grad_(False)
        if extend_tables(self.model, index):
            self._set_moments(moments)

    def refresh_reference(self) -> None:
        """The present weights are those that are published from now on."""
        self.reference.load_state_dict(self.model.state_dict())

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """All that later steps depend on beside the model and the index: the moments of the optimizer, the reference,
        the generator, and the number of steps. On the CPU, for safetensors."""
        tensors = {"rng": torch.get_rng_state(), "steps": torch.tensor(self.steps), **self._moments()}
        tensors |= {f"reference/{name}": value for name, value in self.reference.state_dict().items()}
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}

    def load_state_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError if the tensors are not those of this model."""
        try:
            weights = {name: tensors[f"reference/{name}"] for name in self.reference.state_dict()}
            self.reference.load_state_dict(weights)
            self._set_moments(tensors)
            torch.set_rng_state(tensors["rng"])
            self.steps = int(tensors["steps"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"The state is not that of this model ({error}). Start anew, or restore it.") from error


def fresh_targets(batch: dict[str, torch.Tensor], rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of [`VSLCollator`] whose targets are the last `fresh` items of each row alone."""
    for line, row in enumerate(rows):
        old = row["length"] - 1 - row["fresh"]
        for name in ("labels", "item_labels", "value_labels"):
            if name in batch:
                batch[name][line, :old] = -100
    return batch


__all__ = ["ContinualTrainer", "fresh_targets"]

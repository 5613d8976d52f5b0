# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The reward model: what an ad is worth to a context, whether it was ever shown to it or not.

Shapes: B contexts, S history items, n candidates, T SID levels, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation
from gr4ad.modeling_gr4ad.context_gr4ad import GR4ADContextProcessor
from gr4ad.modeling_gr4ad.layers_gr4ad import GR4ADContext, GR4ADDecoderLayer, GR4ADRMSNorm

from .score_calibration import apply_calibration, check_calibration

VALUE_GIVEN = ("impression", "click", "conversion")
MOST_SEEN = 3
"""Times that the history holds an ad are told apart up to here."""
POSITION_GAIN = 10.0
"""A bias of a place has to go as far as a whole logit, while weights go as far as a step of the optimizer."""
LARGEST_LOG = 20.0
"""Bound of the log of a value over the mean value: e^20 is beyond any ad, and still a number."""


@strict
class RewardModelConfig(GR4ADConfig):
    r"""
    Configuration of [`RewardModel`]: that of the policy whose context processor it reads with, and

    Args:
        num_reward_layers (`int`): Decoder layers between an ad and the heads, 1..num_hidden_layers.
        num_positions (`int`): Places of a list whose bias is told apart; later ones share the last's.
        value_given (`str`): What a logged value needs: `impression` where every impression carries one (an eCPM),
            `click` or `conversion` where only those are worth something.
        value_scale (`float`): Mean of the training values, in their unit: the value head answers relative to it.
        calibration (`dict`, *optional*): Maps of the scores `click`, `conversion`, `value`, fitted on held-out
            exposures: `{"slope", "intercept"}` or the knots `{"x", "y"}` of an isotonic map. Plain numbers.
    """

    model_type = "gr4ad_reward"
    _auto_class = None  # not remote code, as the policy's is

    num_reward_layers: int = 1
    num_positions: int = 16
    value_given: str = "impression"
    value_scale: float = 1.0
    calibration: dict | None = None

    def validate_reward(self) -> None:
        """Part of `@strict` validation."""
        if not 1 <= self.num_reward_layers <= self.num_hidden_layers:
            raise ValueError(
                f"`num_reward_layers` must be in 1..{self.num_hidden_layers} (`num_hidden_layers`). Received: "
                f"{self.num_reward_layers}."
            )
        if self.num_positions < 1:
            raise ValueError(f"`num_positions` must be at least 1. Received: {self.num_positions}.")
        if self.value_given not in VALUE_GIVEN:
            raise ValueError(f"`value_given` must be one of {', '.join(VALUE_GIVEN)}. Received: {self.value_given!r}.")
        if not 0 < self.value_scale < float("inf"):
            raise ValueError(f"`value_scale` must be above 0 and finite. Received: {self.value_scale}.")
        check_calibration(self.calibration)


@dataclass
class RewardOutput(ModelOutput):
    """Output of [`RewardModel`], all (B, n) but the loss.

    loss: scalar, mean over labelled exposures. losses: its parts, detached: `click`, `conversion`, `value`.
    click_logits: with the bias of `positions` where they are given. conversion_logits. value_logs: log of the value
    over `config.value_scale`. The next three are calibrated: click_probs, P(click), at the first place unless
    `positions` are given; conversion_probs, P(conversion | click); expected_values >= 0, in the unit of the log: what
    one impression is worth.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    click_logits: torch.Tensor | None = None
    conversion_logits: torch.Tensor | None = None
    value_logs: torch.Tensor | None = None
    click_probs: torch.Tensor | None = None
    conversion_probs: torch.Tensor | None = None
    expected_values: torch.Tensor | None = None


class RewardModel(PreTrainedModel):
    """
    Scores ads for a context: P(click), P(conversion | click) and the expected value of an impression (the reward
    system of arXiv 2602.22732).

    The user tower is the policy's context processor, by default as it is: it has learned what histories say from every
    event, clicks on what was shown are few, and no pass goes back through it. An ad is the sum of the vectors of its
    SID tokens, which new ads have too, of its own vector, which new ads lack, and of one that tells how often the
    history holds it. It attends to the context as a beam of the policy would, in decoder layers of its own, and three
    heads read the result. The place of an ad in its list is a bias on the logit of a click in training; it is left out
    when rewards are asked for, so that being on top is no merit.

    ```python
    >>> reward = RewardModel.from_policy(policy, num_positions=6)
    >>> output = reward(**batch, candidate_ids=sids, candidate_item_ids=rows)   # sids (B, n, T), rows (B, n)
    >>> output.expected_values.shape                                            # (B, n)
    ```
    """

    config: RewardModelConfig
    config_class = RewardModelConfig
    _auto_class = None
    base_model_prefix = "reward"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: RewardModelConfig):
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.context_processor = GR4ADContextProcessor(config)
        self.ad_tokens = nn.Embedding(config.vocab_size, width)
        self.ad_embeddings = nn.Embedding(config.num_items, width, padding_idx=0) if config.num_items else None
        self.seen_embeddings = nn.Embedding(MOST_SEEN + 1, width)
        self.layers = nn.ModuleList(GR4ADDecoderLayer(config, i) for i in range(config.num_reward_layers))
        self.norm = GR4ADRMSNorm(width, eps=config.rms_norm_eps)
        self.heads = nn.Linear(width, 3)
        self.position_bias = nn.Embedding(config.num_positions, 1, padding_idx=0)  # the first place is the measure
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.position_bias:
            init.zeros_(module.weight)

    @classmethod
    def from_policy(cls, policy: GR4ADForRecommendation, **changes: Any) -> RewardModel:
        """A fresh reward model around a copy of a policy's context processor; ads start from the policy's vectors of
        SID tokens and items. `changes` are fields of [`RewardModelConfig`]."""
        known = policy.config.to_dict()
        for name in ("model_type", "architectures", "auto_map", "transformers_version", "dtype", "loss_type"):
            known.pop(name, None)
        model = cls(RewardModelConfig(**{**known, **changes}))
        nn.Module.to(model, policy.device, policy.dtype)
        base = policy.model
        with torch.no_grad():
            model.context_processor.load_state_dict(base.context_processor.state_dict())
            model.embed_tokens.load_state_dict(base.embed_tokens.state_dict())
            model.ad_tokens.weight.copy_(base.embed_tokens.weight)
            if model.ad_embeddings is not None and base.context_processor.item_embeddings is not None:
                model.ad_embeddings.weight.copy_(base.context_processor.item_embeddings.weight)
        return model

    @torch.no_grad()
    def start_positions(self, examination: torch.Tensor) -> None:
        """Starts the bias of each place at the log of how likely it is looked at, float (num_positions,) > 0."""
        start = (examination / examination[0]).log() / POSITION_GAIN
        self.position_bias.weight.copy_(start.unsqueeze(1).to(self.position_bias.weight))

    def freeze_context(self) -> None:
        """Leaves the user tower as the policy has it."""
        for part in (self.embed_tokens, self.context_processor):
            part.requires_grad_(False)

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **features: Any
    ) -> GR4ADContext:
        """Reads the histories: arguments as in [`GR4ADModel.forward`]."""
        levels = self.config.num_levels
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        batch, length = input_ids.shape[0], input_ids.shape[1] // levels
        return self.context_processor(
            self.embed_tokens(input_ids).view(batch, length, levels, -1),
            attention_mask.view(batch, length, levels)[..., 0].bool(),
            **features,
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        candidate_ids: torch.Tensor | None = None,
        candidate_item_ids: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        outcomes: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **history: torch.Tensor | None,
    ) -> RewardOutput:
        """
        Args:
            input_ids, attention_mask, **history: The contexts, as in [`GR4ADModel.forward`].
            candidate_ids (int64, (B, n, T)): SID tokens of the ads. candidate_item_ids (int64, (B, n)): Item rows + 1,
                0 = new; rows beyond the table count as new. Default: all new.
            candidate_mask (bool, (B, n)): True on real candidates; default all.
            positions (int64, (B, n)): Places from 0 that the ads stood at. Default: all first.
            outcomes (int64, (B, n)): 0 nothing, 1 click, 2 conversion: asks for the loss, together with
                values (float, (B, n)): in the unit of the log.
            num_items_in_batch (`int`): What the loss is divided by, the exposures of the whole accumulated batch;
                default: the real candidates given here.
        """
        assert candidate_ids is not None
        context = self.encode(input_ids, attention_mask, **history)
        states = self.ad_states(context, candidate_ids, candidate_item_ids)
        click, conversion, value = self.heads(states).float().unbind(-1)
        if positions is not None:
            places = positions.clamp(max=self.config.num_positions - 1)
            click = click + POSITION_GAIN * self.position_bias(places).squeeze(-1)
        value = value.clamp(max=LARGEST_LOG)
        output = RewardOutput(click_logits=click, conversion_logits=conversion, value_logs=value)
        if outcomes is not None:
            assert values is not None
            scores = (click, conversion, value)
            output = RewardOutput(*self.losses(scores, outcomes, values, candidate_mask, num_items_in_batch), **output)
        maps = self.config.calibration or {}
        output.click_probs = apply_calibration(maps.get("click"), click, torch.sigmoid)
        output.conversion_probs = apply_calibration(maps.get("conversion"), conversion, torch.sigmoid)
        worth = self.config.value_scale * apply_calibration(maps.get("value"), value, torch.exp)
        if self.config.value_given != "impression":
            worth = worth * output.click_probs
        if self.config.value_given == "conversion":
            worth = worth * output.conversion_probs
        output.expected_values = worth
        return output

    def ad_states(
        self, context: GR4ADContext, candidate_ids: torch.Tensor, candidate_item_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """States (B, n, d) of ads that have read their context."""
        ads = self.ad_tokens(candidate_ids).sum(2) + context.query
        seen = torch.zeros(candidate_ids.shape[:2], dtype=torch.int64, device=ads.device)
        if candidate_item_ids is not None:
            if self.ad_embeddings is not None:
                new = candidate_item_ids >= self.ad_embeddings.num_embeddings
                ads = ads + self.ad_embeddings(candidate_item_ids.masked_fill(new, 0))
            if context.item_ids is not None:
                same = candidate_item_ids.unsqueeze(2) == context.item_ids.unsqueeze(1)
                known = (candidate_item_ids > 0).unsqueeze(2)
                seen = (same & known).sum(2).clamp(max=MOST_SEEN)
        hidden = (ads + self.seen_embeddings(seen)).unsqueeze(2)  # each ad is a row of one position
        alone = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=hidden.device)
        for layer in self.layers:
            hidden = layer(hidden, context, alone)
        return self.norm(hidden.squeeze(2))

    def losses(
        self,
        scores: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        outcomes: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        count: torch.Tensor | int | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The likelihood of what came of each exposure: of a click, of a conversion where there was one, and the
        Poisson quasi-likelihood of the value, whose minimum is the mean whatever the distribution."""
        mask = torch.ones_like(outcomes, dtype=torch.bool) if mask is None else mask
        clicked, converted = (outcomes >= 1).float(), (outcomes >= 2).float()
        click_logits, conversion_logits, value_logs = scores
        click = F.binary_cross_entropy_with_logits(click_logits, clicked, reduction="none")
        conversion = F.binary_cross_entropy_with_logits(conversion_logits, converted, reduction="none")
        value = value_logs.exp() - values.float() / self.config.value_scale * value_logs
        priced = outcomes >= VALUE_GIVEN.index(self.config.value_given)
        count = mask.sum().clamp(min=1) if count is None else count
        parts = {
            name: part.masked_fill(~(mask & where), 0.0).sum() / count
            for name, part, where in (
                ("click", click, mask),
                ("conversion", conversion, outcomes >= 1),
                ("value", value, priced),
            )
        }
        total = parts["click"] + parts["conversion"] + parts["value"]
        return total, {name: part.detach() for name, part in parts.items()}


__all__ = ["RewardModel", "RewardModelConfig", "RewardOutput"]

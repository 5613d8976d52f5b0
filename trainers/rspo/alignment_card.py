# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The model card of an alignment run. `gr4ad card` replaces it by that of the whole chain, with its test figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

A [GR4AD](https://arxiv.org/abs/2602.22732) model that was aligned with the value of ranked lists by
`gr4ad.RSPOTrainer`. It reads the ads a user responded to, oldest first, and generates the semantic ID of the next ad.

```python
from gr4ad import GR4ADForRecommendation

model = GR4ADForRecommendation.from_pretrained("{{ model }}")
```

## Alignment

| setting | value |
|---|---|
{% for name, value in settings -%}
| `{{ name }}` | {{ value }} |
{% endfor %}
{%- if guard %}
Validation by beam search before training: NDCG@10 {{ "%.4f" | format(guard.start_ndcg) }}. Kept: the policy of step
{{ guard.best_step }} of {{ steps }}, with `{{ metric }}` {{ "%.4f" | format(guard.best_metric) }} and NDCG@10
{{ "%.4f" | format(guard.best_ndcg) }}. These users chose the policy: they do not measure it.
{%- else %}
This run was not validated: nothing here says how well the model ranks.
{%- endif %}
"""

SETTINGS = ("loss_type", "beta", "delta", "max_grade", "vsl_weight", "unified", "reference", "learning_rate",
            "num_train_epochs", "per_device_train_batch_size", "seed")  # fmt: skip


def write_alignment_card(
    trainer: Any,
    model_name: str | None = None,
    dataset_name: str | None = None,
    tags: Sequence[str] | str | None = None,
) -> Path:
    """Writes README.md into the trainer's `output_dir` and returns it."""
    args = trainer.args
    more = [tags] if isinstance(tags, str) else list(tags or ())
    name = model_name or (args.hub_model_id or Path(args.output_dir).resolve().name).split("/")[-1]
    base = getattr(trainer.model.config, "_name_or_path", "")
    data = ModelCardData(
        library_name="gr4ad",
        model_name=name,
        base_model=base if base and not Path(base).exists() else None,  # a folder of this machine names no model
        datasets=dataset_name,
        tags=sorted({*trainer._tag_names, "recommendation", *more}),
    )
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        title=name,
        model=args.hub_model_id or name,
        settings=[("lists", len(trainer.train_dataset)), *((field, args.to_dict()[field]) for field in SETTINGS)],
        guard=trainer.guard.state if trainer.guard is not None else None,
        metric=trainer.guard.metric if trainer.guard is not None else None,
        steps=trainer.state.global_step,
    )
    path = Path(args.output_dir) / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    card.save(path)
    return path


__all__ = ["write_alignment_card"]

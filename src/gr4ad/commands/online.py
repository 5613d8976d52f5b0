"""`gr4ad online`: training that goes on while logs arrive."""

from __future__ import annotations

import signal
from typing import Any

from tqdm import tqdm

from gr4ad.commands.arguments import parse_configs


def online(arguments: list[str]) -> None:
    config, learning = parse_configs(
        "gr4ad online",
        ("gr4ad.online.online_config.OnlineConfig", "gr4ad.trainers.continual.continual_config.ContinualConfig"),
        arguments,
    )

    from transformers.utils.logging import disable_progress_bar

    from gr4ad.online import OnlineLoop  # brings torch, which the lines above do without

    disable_progress_bar()  # of every saved model: they would break the one line
    loop = OnlineLoop(config, learning)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    with tqdm(desc="online", unit="step", initial=loop.state.steps, dynamic_ncols=True) as bar:

        def show(metrics: dict[str, Any]) -> None:
            bar.update(metrics["step"] - bar.n)
            bar.set_postfix_str(progress(metrics))

        loop.run(show)


def progress(metrics: dict[str, Any]) -> str:
    """What fits into one line."""
    parts = [f"{name} {count}" for name, count in sorted(metrics["used"].items())]
    parts += [f"{name} {metrics[name]:.3f}" for name in ("loss", "ndcg@10") if name in metrics]
    parts.append(f"published at {metrics['published_step']}")
    if metrics["alarms"]:
        parts.append(f"alarms {metrics['alarms']}")
    return ", ".join(parts)

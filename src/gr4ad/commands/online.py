"""`gr4ad online`: training that goes on while logs arrive."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from gr4ad.commands.arguments import parse_configs

if TYPE_CHECKING:
    from gr4ad.online import OnlineLoop

logger = logging.getLogger(__name__)


def online(arguments: list[str]) -> None:
    config, learning = parse_configs(
        "gr4ad online",
        ("gr4ad.online.online_config.OnlineConfig", "gr4ad.trainers.continual.continual_config.ContinualConfig"),
        arguments,
    )

    from gr4ad.online import OnlineLoop  # brings torch, which the lines above do without

    loop = OnlineLoop(config, learning)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    with tqdm(desc="online", unit="step", initial=loop.state.steps, dynamic_ncols=True) as bar:

        def show(metrics: dict[str, Any]) -> None:
            bar.set_postfix_str(progress(metrics), refresh=False)
            bar.update(metrics["step"] - bar.n)

        loop.run(show)
    logger.info("Ended after %s. %s", loop.counts(), publication(loop))


def publication(loop: OnlineLoop) -> str:
    """Which weights servers have, and what those of now wait for."""
    state, config = loop.state, loop.config
    if state.steps == state.steps_published:
        return f"These weights are the published ones, in {config.root}."
    guard = f" and {config.guard_users} users ranked (`guard_users`)" if config.vsl is not None else ""
    return (
        f"Servers have the weights of step {state.steps_published}; new ones are published after "
        f"{config.publish_steps} steps (`publish_steps`){guard}. The same command goes on from here."
    )


def progress(metrics: dict[str, Any]) -> str:
    """What fits into one line."""
    parts = [f"{name} {count}" for name, count in sorted(metrics["used"].items())]
    parts += [f"{name} {metrics[name]:.3f}" for name in ("loss", "ndcg@10") if name in metrics]
    parts.append(f"published at {metrics['published_step']}")
    if metrics["alarms"]:
        parts.append(f"alarms {metrics['alarms']}")
    return ", ".join(parts)

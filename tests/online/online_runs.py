"""Records of small logs, and what a run of the online loop came to."""

import json
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from gr4ad.online import OnlineLoop
from gr4ad.online.trainer_state import OnlineState
from gr4ad.serving import PublishedModel


def write_records(path: Path, records: list[dict]) -> None:
    """A complete file of a folder stream."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    temporary.rename(path)


def engagements(count: int, seed: int) -> list[dict]:
    """Users of the tiny artifact who go on from ad n to ad n + 7."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        length = int(rng.integers(1, 6))
        walk = [f"ad_{(rng.integers(120) + 7 * step) % 120}" for step in range(length + 1)]
        values = rng.integers(0, 5, length + 1).astype(float).tolist()
        records.append(
            {"items": walk[:-1], "values": values[:-1], "target_items": walk[-1:], "target_values": values[-1:]}
        )
    return records


def preference_lists(count: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "items": [f"ad_{n}" for n in rng.integers(0, 120, 3)],
            "values": [0.0, 1.0, 2.0],
            "candidates": [f"ad_{n}" for n in rng.permutation(120)[:4]],
            "rewards": [0.0, 1.0, 5.0, 2.0],
        }
        for _ in range(count)
    ]


def outcome(config) -> dict:
    """What a run came to: its state but for its name, all tensors, the index and the changes, as comparable values."""
    loop_folder, published = Path(config.out), PublishedModel(config.root)
    [place] = sorted(loop_folder.glob("checkpoint-*"))
    state = json.loads((place / "online_state.json").read_text())
    del state["run"]
    number, version = published.current()
    tensors = {
        name: tensor.numpy().tobytes()
        for file in (place / "online_state.safetensors", place / "model.safetensors", version / "model.safetensors")
        for name, tensor in ((f"{file.parent.parent.name}/{name}", t) for name, t in load_file(file).items())
    }
    return {
        "state": state,
        "tensors": tensors,
        "items": (place / "items.parquet").read_bytes(),
        "last_change": published.last_change,
        "included": published.changes_of(number),
    }


def finished(config, learning) -> OnlineState:
    with OnlineLoop(config, learning) as loop:
        loop.run()
        return loop.state

"""What every result of a benchmark has to be."""

import math
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
FIELDS = {"name", "metric", "value", "spread", "unit"}


def numbers(value: object) -> list[float]:
    """All numbers within JSON."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def check_form(content: dict, script: str) -> None:
    """The form that every result has."""
    assert {"command", "machine", "versions", "seeds", "rows", "ratios"} <= content.keys()
    assert content["command"].startswith(f"python benchmarks/{script}.py")
    assert "/" not in content["command"].removeprefix("python benchmarks/")  # no folder of this machine
    assert {"cpu", "cores"} <= content["machine"].keys() and {"gr4ad", "torch"} <= content["versions"].keys()
    assert content["seeds"] and content["rows"]
    keys = [(row["name"], row["metric"], row.get("seed")) for row in content["rows"]]
    assert len(set(keys)) == len(keys)  # no figure twice
    for row in content["rows"]:
        assert row.keys() >= FIELDS and isinstance(row["unit"], str)
        spread = row["spread"]
        if isinstance(spread, list):
            assert spread[0] <= row["value"] + 1e-9 and row["value"] <= spread[1] + 1e-9, row
        else:
            assert spread is None or spread >= 0, row
    assert all(map(math.isfinite, numbers(content["ratios"])))


def values(content: dict) -> dict[tuple[str, str], float]:
    """(Name, metric) -> value, of rows over all seeds or of the only seed."""
    return {(row["name"], row["metric"]): row["value"] for row in content["rows"]}

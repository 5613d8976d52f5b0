"""Runs side by side as rows of a result file: means over seeds with intervals, and differences on the same users.

    python benchmarks/comparison.py "ours=OUT/a,OUT/a-seed1" "SASRec=OUT/b/seed0,OUT/b/seed1" --out FILE

The first group is what the others are measured against. A run is any folder with the scores per user that
`gr4ad run`, `gr4ad evaluate`, `sasrec.py` and `decoders.py` leave behind; all must be of the same data and users.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from recipe import METRICS, PROTOCOLS, unit_of

from gr4ad.pipeline.comparing import compare_runs, read_groups
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json


def compared_rows(
    groups: Mapping[str, Sequence[str | Path]], unit: str, protocols: Sequence[str] = tuple(PROTOCOLS)
) -> tuple[list[dict], dict[str, dict]]:
    """Rows of every system and metric, and name -> each one's difference from the first group.

    Args:
        groups: System -> folders of its runs, one a seed.
        unit: Of values in the log.
        protocols: Which of the tables.

    Returns:
        Rows with `value` (mean over seeds), `spread` (sample standard deviation over them, None for one), `low` and
        `high` (95% interval over users and seeds), `by_seed`; and differences, absolute and relative, each with the
        interval of the same users.
    """
    rows, differences = [], {}
    for protocol in protocols:
        for name, system in compare_runs(groups, protocol=protocol)["systems"].items():
            for metric, figures in system["metrics"].items():
                if metric not in METRICS:
                    continue
                label = f"{PROTOCOLS[protocol]}{name}/{metric}"
                rows.append(
                    {
                        "name": label,
                        "metric": metric,
                        "value": round(figures["mean"], 5),
                        "spread": None if figures["spread"] is None else round(figures["spread"], 5),
                        "low": round(figures["low"], 5),
                        "high": round(figures["high"], 5),
                        "by_seed": [round(value, 5) for value in figures["by_run"]],
                        "unit": unit_of(metric, unit),
                    }
                )
                if "difference" in figures:
                    differences[label] = {
                        key: None if value is None else round(value, 5) for key, value in figures["difference"].items()
                    }
    return rows, differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER[,FOLDER...] of each system, one folder a seed.")
    parser.add_argument("--unit", default="events", help="Of values in the log.")
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), help="Tables, of those all runs have.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    arguments = parser.parse_args()
    groups = read_groups(arguments.runs)
    rows, differences = compared_rows(groups, arguments.unit, arguments.protocols)
    result = {
        "command": "python benchmarks/comparison.py NAME=RUN[,RUN...] ... --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": {name: len(folders) for name, folders in groups.items()},
        "rows": rows,
        "ratios": differences,
    }
    write_json(arguments.out, result)
    print(json.dumps(rows, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()

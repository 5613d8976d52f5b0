"""Command lines and result files of the benchmarks: one form for all.

A result is JSON with `command`, `machine`, `versions`, `seeds`, `rows` and `ratios`; a row has `name`, `metric`,
`value`, `spread` and `unit`. What a spread is, its script says: a number, or the two ends of an interval, or None.
"""

import argparse
import logging
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from gr4ad.cli import keep_freed_memory
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json

Row = dict[str, Any]
DIGITS = 6
COMMON: dict[str, dict[str, Any]] = {
    "recipe": {"help": "YAML file or name of a packaged recipe."},
    "--data": {"type": Path, "metavar": "DIR", "help": "Folder of the recipe's data files."},
    "--work": {"type": Path, "metavar": "OUT", "required": True, "help": "Folder of the runs; finished ones stay."},
    "--run": {"type": Path, "metavar": "RUN", "required": True, "help": "Finished folder of `gr4ad run`, of seed 0."},
    "--runs": {"nargs": "+", "metavar": "NAME=RUN", "required": True, "help": "Finished folders of `gr4ad run`."},
    "--figure": {"type": Path, "metavar": "FILE", "help": "Figure to write, .svg."},
}


class Benchmark(argparse.ArgumentParser):
    """The command line of a script, and the result that it writes.

    Args:
        file, doc: `__file__` and `__doc__` of the script.
        smoke: What `--smoke` makes small.
    """

    def __init__(self, file: str, doc: str | None, *, smoke: str = "The smallest run, for its form alone.") -> None:
        assert doc is not None
        self.asked: list[argparse.Action] = []
        super().__init__(prog=f"python benchmarks/{Path(file).name}", description=doc.splitlines()[0])
        self.add_argument("--smoke", action="store_true", help=smoke)
        self.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write.")

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        action = super().add_argument(*names, **options)
        self.asked.append(action)
        return action

    def take(self, *names: str, **defaults: Any) -> None:
        """Options of `COMMON`, then others by their default, or (default, help): a list takes several values, False is
        a switch."""
        for name in names:
            self.add_argument(name, **COMMON[name])
        for name, given in defaults.items():
            default, told = given if isinstance(given, tuple) else (given, None)
            one = default[0] if isinstance(default, list) else default
            how: dict[str, Any] = {"action": "store_true"}
            if default is not False:
                how = {"type": type(one), "default": default, "nargs": "+" if isinstance(default, list) else None}
            self.add_argument("--" + name.replace("_", "-"), help=told, **how)

    def start(self, words: Sequence[str] | None, **smoke: Any) -> argparse.Namespace:
        """Reads the command line (None: that of the process), and sets up logs and the allocator; with `--smoke` the
        values of `smoke` are in the place of what was asked."""
        arguments = self.parse_args(words)
        if arguments.smoke:
            vars(arguments).update(smoke)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        keep_freed_memory()
        return arguments

    def one_of(self, kind: str, known: Mapping[str, Any], asked: Sequence[str] | None) -> list[str]:
        """The names asked for, default all; ends the command at an unknown one."""
        if unknown := [name for name in asked or () if name not in known]:
            self.error(f"no {kind} {unknown[0]!r}; there are: {', '.join(known)}")
        return list(known if asked is None else asked)

    def command(self, arguments: argparse.Namespace) -> str:
        """How the run is repeated: what was not left at its default, folders and files by their kind alone."""
        words = [self.prog]
        for action in self.asked:
            value = getattr(arguments, action.dest, None)
            if not action.option_strings:
                words.append(action.metavar or Path(value).stem)
            elif action.metavar is not None and value not in (None, []):
                words += [action.option_strings[0], str(action.metavar)]
            elif value is True:
                words.append(action.option_strings[0])
            elif value != action.default and action.dest != "help":
                values = value if isinstance(value, list) else [value]
                words += [action.option_strings[0], *(shlex.quote(str(part)) for part in values)]
        return " ".join(words)

    def write(
        self,
        arguments: argparse.Namespace,
        rows: Sequence[Row],
        ratios: Mapping[str, Any] | None = None,
        *,
        seeds: Any = (0,),
        threads: int | None = None,
        packages: Sequence[str] = (),
        versions: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """Prints the result, and writes it to `--out`.

        Args:
            threads: Of this process, where the script sets them.
            packages, versions: Further packages whose version counts, and versions found in another way.
            more: What else the result says.
        """
        content = {
            "command": self.command(arguments),
            "machine": {**machine(), **({} if threads is None else {"threads": threads})},
            "versions": {**{name: version(name) for name in (*VERSIONS, *packages)}, **(versions or {})},
            "seeds": seeds if isinstance(seeds, Mapping) else list(seeds),
            **more,
            "rows": list(rows),
            "ratios": rounded(ratios or {}),
        }
        if arguments.out is not None:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.out, content)
        show(content["rows"], content["ratios"])


def show(rows: Sequence[Row], ratios: Mapping[str, Any]) -> None:
    table = Table(*(Column(name, overflow="fold") for name in ("name", "metric", "value", "spread", "unit")))
    for row in rows:
        table.add_row(row["name"], row["metric"], str(row["value"]), str(row["spread"]), row["unit"])
    for name, value in ratios.items():
        table.add_row(name, "ratio", str(value), style="bold")
    Console(width=119).print(table)


def rounded(value: Any) -> Any:
    """Floats to `DIGITS` significant digits, also within lists and maps; numpy's numbers become Python's."""
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [rounded(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}")
    return int(value) if isinstance(value, np.integer) else value


def result_row(name: str, metric: str, value: Any, unit: str, spread: Any = None, **more: Any) -> Row:
    return {
        "name": name, "metric": metric, "value": rounded(value), "spread": rounded(spread), "unit": unit,
        **rounded(more),
    }  # fmt: skip


def rounds_row(name: str, metric: str, values: Any, unit: str, **more: Any) -> Row:
    """The median over rounds, and as spread the interquartile range."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return result_row(name, metric, middle, unit, high - low, **more)


def seeds_row(name: str, metric: str, values: Sequence[float], unit: str, **more: Any) -> Row:
    """The mean over seeds, as spread their sample standard deviation (None for one), and each under `by_seed`."""
    spread = np.std(values, ddof=1) if len(values) > 1 else None
    return result_row(name, metric, np.mean(values), unit, spread, by_seed=list(values), **more)


def values_of(rows: Sequence[Row]) -> dict[tuple[str, str], Any]:
    return {(row["name"], row["metric"]): row["value"] for row in rows}

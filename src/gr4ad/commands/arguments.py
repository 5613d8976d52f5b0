"""Flags of the commands, out of the fields of configuration classes: parsed before anything heavy is imported.

As with TRL's parser every field is a flag, `--config FILE.yaml` gives values that flags win over, `--flag` alone turns
a switch on and `--no_flag` turns one off that is on by default, and lists are `--beam_widths 50 100 100`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from gr4ad.pipeline.config_fields import ConfigField, config_class, fields_of, suggestion


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are ValueErrors of one line; nothing is abbreviated."""

    def __init__(self, **more: Any):
        super().__init__(**{"allow_abbrev": False, **more})

    def error(self, message: str) -> NoReturn:
        ended = message if message.endswith(("?", ".")) else f"{message}."
        raise ValueError(f"{ended} `{self.prog} --help` shows what there is.")

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        known = self._option_string_actions
        if self._subparsers is None:  # before what is missing is told, what is misspelt
            self.refuse([word for word in arguments if is_flag(word) and word.partition("=")[0] not in known])
        options, unknown = self.parse_known_args(arguments)
        self.refuse(unknown)
        return options

    def refuse(self, unknown: Sequence[str]) -> None:
        if unknown:
            flag = unknown[0].partition("=")[0]
            self.error(f"unknown argument `{flag}`.{suggestion(flag, self._option_string_actions)}")


def is_flag(word: str) -> bool:
    """Whether argparse takes a word as a flag: one with a space is a value, e.g. of `--vllm_args`."""
    return word.startswith("--") and " " not in word


def parse_flags(
    parser: CommandParser, configs: Mapping[str, str], arguments: Sequence[str]
) -> tuple[argparse.Namespace, dict[str, dict[str, Any]]]:
    """Reads flags and the file of `--config`.

    Args:
        parser: Knows the command's own flags already.
        configs: Title of a group of flags -> configuration class that they are the fields of, see `fields_of`.

    Returns:
        The command's own options; and title -> field -> value, of the fields that were given.

    Raises:
        ValueError: An unknown flag or key, or a value of the wrong type.
    """
    parser.add_argument("--config", metavar="FILE", help="YAML file of any of these values; flags win")
    flags: dict[str, tuple[str, ConfigField]] = {}
    for title, source in configs.items():
        group = parser.add_argument_group(title)
        for described in fields_of(source).values():
            flag = f"{title}_{described.name}" if described.name in flags else described.name
            flags[flag] = (title, described)
            add_flag(group, flag, described)
    given: dict[str, dict[str, Any]] = {title: {} for title in configs}
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    file = first.parse_known_args(arguments)[0].config
    own = {action.dest for action in parser._actions if action.dest not in ("help", "config")}
    config = read_config(file) if file else {}
    for name, value in config.items():
        if name in flags:
            title, described = flags[name]
            given[title][described.name] = described.check(value, name)
        elif name in own:
            parser.set_defaults(**{name: value})
        else:
            raise ValueError(f"{file}: unknown field `{name}`.{suggestion(name, [*own, *flags])}")
    for action in parser._actions:
        action.required = action.required and action.dest not in config
    options = parser.parse_args(arguments)
    for flag, (title, described) in flags.items():
        if flag in options:
            given[title][described.name] = vars(options).pop(flag)
    return options, given


def parse_configs(prog: str, configs: Sequence[str], arguments: Sequence[str]) -> list[Any]:
    """An object of each configuration class from flags and `--config`, made once all of them are parsed. Raises
    ValueError as `parse_flags`, and as the classes do."""
    titles = {name.rpartition(".")[2]: name for name in configs}
    _, given = parse_flags(CommandParser(prog=prog), titles, arguments)
    return [config_class(name)(**given[title]) for title, name in titles.items()]


def read_config(file: str) -> dict[str, Any]:
    """The map of a YAML file; what it has under `env` becomes environment variables. Raises ValueError if it is no
    map."""
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML ({error}).") from error
    if not isinstance(values, dict) or not isinstance(values.get("env", {}), dict):
        raise ValueError(f"{file}: must be a map of fields to values. Received: {values!r}.")
    os.environ.update({name: str(value) for name, value in values.pop("env", {}).items()})
    return values


def add_flag(group: argparse._ArgumentGroup, flag: str, described: ConfigField) -> None:
    """The flag of a field, in both spellings, and the one that turns a switch off; absent where it is not given."""
    more: dict[str, Any] = {"required": described.required}
    if described.kinds == ("bool",):
        more |= {"nargs": "?", "const": True}
    elif described.is_list:
        more |= {"nargs": "+"}
    default = "required" if described.required else f"default: {described.default}"
    more["help"] = f"{described.help.replace('%%', '%')} ({default})".replace("%", "%%")
    group.add_argument(*spellings(flag), dest=flag, type=flag_type(described), default=argparse.SUPPRESS, **more)
    if described.kinds == ("bool",) and described.default is True:
        more = {"action": "store_false", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        group.add_argument(*spellings(f"no_{flag}"), dest=flag, **more)


def spellings(flag: str) -> list[str]:
    """`--a_b` and `--a-b`."""
    return list(dict.fromkeys([f"--{flag}", f"--{flag.replace('_', '-')}"]))


def flag_type(described: ConfigField) -> Callable[[str], Any]:
    """What turns a flag's text into a value, with an error that says what is allowed."""

    def parsed(text: str) -> Any:
        try:
            return described.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be {described.allowed}. Received: {text!r}") from error

    return parsed

"""The fields of configuration classes (names, types, defaults, help), read from their source without importing torch.

A flag or a recipe is refused in a fraction of a second this way, although the classes that take it are subclasses of
transformers' `TrainingArguments`, whose import takes seconds.
"""

from __future__ import annotations

import ast
import datetime
import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from operator import add, lshift, mul
from pathlib import Path
from typing import Any

SCALARS = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict}
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {ast.Add: add, ast.Mult: mul, ast.Pow: pow, ast.LShift: lshift}
EMPTY: dict[str, Any] = {"list": [], "dict": {}}
IN_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text", "dict": "a map"}
TRUTHS = {"true": True, "t": True, "yes": True, "y": True, "1": True,
          "false": False, "f": False, "no": False, "n": False, "0": False}  # fmt: skip


@dataclass(frozen=True)
class ConfigField:
    """A field of a configuration class.

    kinds: what a value may be, of `SCALARS` and `list`; item: kind of a list's entries; optional: it may be None;
    choices: the only values, if there are any; default: `dataclasses.MISSING` where it has to be given; help: what it
    means.
    """

    name: str
    kinds: tuple[str, ...]
    item: str
    optional: bool
    choices: tuple[Any, ...]
    default: Any
    help: str

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def is_list(self) -> bool:
        """Whether a flag takes several values; YAML may know the field as one entry without its list too."""
        return self.kinds[0] == "list"

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        words = [f"a list ({IN_WORDS[self.item]})" if kind == "list" else IN_WORDS[kind] for kind in self.kinds]
        return " or ".join(words)

    def check(self, value: Any, name: str = "") -> Any:
        """The value of a YAML file as the field takes it: text such as 1e-3, which YAML does not know as a number, is
        read as one where only a number will do. Raises ValueError, naming the field as `name`, if it is of another
        type."""
        if value is None and self.optional:
            return None
        if isinstance(value, datetime.date) and {"int", "str"} <= set(self.kinds):
            return value.isoformat()  # as which YAML reads an unquoted ISO date
        if isinstance(value, str) and self.kinds == ("float",):
            try:
                return float(value)
            except ValueError:
                pass
        of_kind = any(is_of(value, kind) for kind in self.kinds)
        if isinstance(value, list) and "list" in self.kinds:
            # Codebook sizes are text, since "256*" is one; 256 means the same as "256".
            of_kind = all(is_of(entry, self.item) or self.item == "str" and is_of(entry, "int") for entry in value)
        if not of_kind or (self.choices and value not in self.choices):
            raise ValueError(f"`{name or self.name}` must be {self.allowed}. Received: {value!r}.")
        return value

    def parse(self, text: str) -> Any:
        """The value that a flag's text (of a list: one entry's) means. Raises ValueError if it means none."""
        kinds = (self.item,) if self.is_list else self.kinds
        if "bool" in kinds and text.lower() in TRUTHS:
            return TRUTHS[text.lower()]
        if "str" in kinds:
            value: Any = text
        elif kinds == ("dict",):
            value = json.loads(text)
        else:
            value = SCALARS[kinds[0]](text) if kinds != ("bool",) else text
        return value if self.is_list else self.check(value)


def setting(default: Any, help: str) -> Any:
    """A field of a configuration class, with what a command line says of it; each object gets a list of its own."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def is_of(value: Any, kind: str) -> bool:
    """Whether a value is of a kind; a bool is no number, an int is a float too."""
    if isinstance(value, bool) or kind in ("bool", "list"):
        return isinstance(value, bool) and kind == "bool"
    return isinstance(value, (int, float) if kind == "float" else SCALARS[kind])


def suggestion(name: str, known: Iterable[str]) -> str:
    """The text ` Did you mean ...?`; "" where nothing is like `name`."""
    bare = {other.lstrip("-"): other for other in known}  # the dashes of two flags make them no more alike
    close = difflib.get_close_matches(name.lstrip("-"), list(bare), n=1)
    return f" Did you mean `{bare[close[0]]}`?" if close else ""


def config_class(config: str) -> type:
    """The class of a dotted name, as `fields_of` takes it; imports its module."""
    module, _, name = config.rpartition(".")
    return getattr(import_module(module), name)


@cache
def fields_of(config: str) -> Mapping[str, ConfigField]:
    """The fields of a dataclass by name, those of its bases first, as `dataclasses.fields` has them.

    Args:
        config: The class with its module, e.g. `gr4ad.trainers.vsl.vsl_config.VSLConfig`.

    Fields that no flag can give (a class of their own) are left out.
    """
    module, _, name = config.rpartition(".")
    source, node = Source.of(module).definition(name)
    assert isinstance(node, ast.ClassDef), config
    found: dict[str, ConfigField] = {}
    for base in reversed(node.bases):
        owner = source.reference(base)
        if owner is not None:
            found |= fields_of(f"{owner[0].module}.{owner[1].name}")
    if any("dataclass" in ast.dump(decorator) for decorator in node.decorator_list):
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                described = described_field(source, line.target.id, line)
                if described is not None:
                    found[described.name] = described
    return found


def described_field(source: Source, name: str, line: ast.AnnAssign) -> ConfigField | None:
    kinds, item, optional, choices = source.kinds(line.annotation)
    text, value = "", line.value
    default: Any = MISSING
    while isinstance(value, ast.Call) and not (isinstance(value.func, ast.Name) and value.func.id == "field"):
        # A function of the module that makes fields: its returned `field(...)` with the arguments put in.
        maker, arguments = source.reference(value.func), [source.value(argument) for argument in value.args]
        assert maker is not None and isinstance(maker[1], ast.FunctionDef), ast.dump(value)
        source = replace(source, given=dict(zip((a.arg for a in maker[1].args.args), arguments, strict=True)))
        value = next(part.value for part in maker[1].body if isinstance(part, ast.Return))
    if isinstance(value, ast.Call):
        words = {word.arg: word.value for word in value.keywords}
        if "init" in words and source.value(words["init"]) is False:
            return None
        default = source.value(words["default"]) if "default" in words else MISSING
        if "default_factory" in words:
            factory = words["default_factory"]
            default = source.value(factory.body) if isinstance(factory, ast.Lambda) else EMPTY[ast.unparse(factory)]
        text = source.help_text(words["metadata"]) if "metadata" in words else ""
    elif value is not None:
        default = source.value(value)
    return ConfigField(name, kinds, item, optional, choices, default, text) if kinds else None


@dataclass(frozen=True)
class Source:
    """A module's source: finds what a name in it means, in it or in the modules that it imports from.

    given: values of names that are set where the source is read, such as a function's arguments.
    """

    module: str
    tree: ast.Module
    is_package: bool
    given: dict[str, Any]

    @staticmethod
    @cache
    def of(module: str) -> Source:
        top, *inner = module.split(".")
        spec = find_spec(top)  # of a package at the top: finds it without importing it
        assert spec is not None and spec.submodule_search_locations, module
        path = Path(spec.submodule_search_locations[0], *inner)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return Source(module, ast.parse(file.read_text(encoding="utf-8")), path.is_dir(), {})

    def definition(self, name: str) -> tuple[Source, Any]:
        """Where a name's value stands: the class, function or expression, and the module that it is in."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                return self, node
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return self, node.value
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return self, node.value
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return Source.of(self.absolute(node)).definition(alias.name)
        raise LookupError(f"{self.module}: `{name}` is not defined there")

    def absolute(self, node: ast.ImportFrom) -> str:
        """The full name of the module that a line imports from."""
        parts = self.module.split(".") if node.level else []
        up = node.level - self.is_package
        return ".".join([*(parts[:-up] if up > 0 else parts), *([node.module] if node.module else [])])

    def reference(self, node: ast.expr) -> tuple[Source, Any] | None:
        """As `definition`, of an expression that names something; None of what is built in or is no name."""
        if not isinstance(node, ast.Name) or node.id in SCALARS:
            return None
        try:
            return self.definition(node.id)
        except LookupError:
            return None

    def value(self, node: ast.expr) -> Any:
        """What an expression of constants, module-level names, f-strings and `join` comes to."""
        if isinstance(node, ast.Name):
            if node.id in self.given:
                return self.given[node.id]
            owner, found = self.definition(node.id)
            return owner.value(found)
        if isinstance(node, ast.JoinedStr):
            return "".join(
                part.value if isinstance(part, ast.Constant) else self.formatted(part)  # type: ignore[arg-type,misc]
                for part in node.values
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            return self.value(node.func.value).join(map(str, self.value(node.args[0])))
        if isinstance(node, ast.Subscript):
            return self.value(node.value)[self.value(node.slice)]
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](self.value(node.left), self.value(node.right))
        if isinstance(node, ast.Dict):
            return {self.value(k): self.value(v) for k, v in zip(node.keys, node.values, strict=True)}  # type: ignore[arg-type]
        if isinstance(node, (ast.Tuple, ast.List)):
            entries = [self.value(entry) for entry in node.elts]
            return entries if isinstance(node, ast.List) else tuple(entries)
        return ast.literal_eval(node)

    def help_text(self, metadata: ast.expr) -> str:
        """The help of a field's metadata; where a part of it is more than `value` knows, the text before that."""
        try:
            return self.value(metadata)["help"]
        except ValueError:
            return next(str(part.value) for part in ast.walk(metadata.values[0]) if isinstance(part, ast.Constant))  # type: ignore[attr-defined]

    def formatted(self, part: ast.FormattedValue) -> str:
        form = "" if part.format_spec is None else self.value(part.format_spec)
        return format(self.value(part.value), form)

    def kinds(self, node: ast.expr) -> tuple[tuple[str, ...], str, bool, tuple[Any, ...]]:
        """Kinds, entries of a list, whether None is allowed, and choices of an annotation; no kinds of what neither a
        flag nor YAML can give."""
        kinds: list[str] = []
        item, optional = "str", False
        choices: list[Any] = []
        for part in self.alternatives(node):
            base = part.value.id if isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name) else ""
            if isinstance(part, ast.Constant) and part.value is None:
                optional = True
            elif isinstance(part, ast.Name) and part.id in SCALARS or base == "dict":
                kinds.append(base or part.id)  # type: ignore[attr-defined]
            elif base == "list":
                inner = ast.unparse(part.slice)  # type: ignore[attr-defined]
                kinds, item = [*kinds, "list"], inner if inner in SCALARS else "str"
            elif base == "Literal":
                constants = [node.value for node in ast.walk(part) if isinstance(node, ast.Constant)]
                texts = [value for value in constants if isinstance(value, str)]
                kinds, choices = [*kinds, *["str"] * bool(texts)], [*choices, *texts]
            elif (owner := self.reference(part)) is not None and is_enum(owner[1]):
                values = [owner[0].value(line.value) for line in owner[1].body if isinstance(line, ast.Assign)]
                kinds, choices = [*kinds, "str"], [*choices, *values]
        return tuple(dict.fromkeys(kinds)), item, optional, tuple(choices)

    def alternatives(self, node: ast.expr) -> list[ast.expr]:
        """The types of a union, or the one type; of a name for a union its types."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return [*self.alternatives(node.left), *self.alternatives(node.right)]
        owner = self.reference(node)
        return self.alternatives(owner[1]) if owner is not None and isinstance(owner[1], ast.BinOp) else [node]


def is_enum(node: Any) -> bool:
    return isinstance(node, ast.ClassDef) and any("Enum" in ast.dump(base) for base in node.bases)

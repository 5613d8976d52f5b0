"""Fields that are read from source are those that Python sees after the import."""

import dataclasses
from typing import get_args, get_type_hints

import pytest
import yaml

from gr4ad.pipeline.config_fields import ConfigField, config_class, fields_of, suggestion
from gr4ad.pipeline.sections import SECTIONS

CONFIGS = [*SECTIONS.values(), "gr4ad.serving.server_config.ServerConfig", "gr4ad.online.online_config.OnlineConfig"]
NOT_FOR_FLAGS = {"parallelism_config"}  # an object of accelerate


@pytest.mark.parametrize("config", CONFIGS)
def test_fields_read_from_source_are_the_classs_own(config):
    found, real = fields_of(config), {f.name: f for f in dataclasses.fields(config_class(config)) if f.init}
    assert list(found) == [name for name in real if name not in NOT_FOR_FLAGS]
    hints = get_type_hints(config_class(config))
    for name, described in found.items():
        theirs = real[name]
        factory = theirs.default_factory
        default = theirs.default if factory is dataclasses.MISSING else factory()
        # transformers sets one default by the version of torch, which only its import knows.
        assert described.default == default or name == "optim", name
        assert described.help == theirs.metadata.get("help", ""), name
        assert described.optional == (type(None) in get_args(hints[name])), name
        if default is not dataclasses.MISSING and default is not None:
            assert described.check(default) == default, name


def field(kinds, item="str", choices=(), optional=False) -> ConfigField:
    return ConfigField("x", kinds, item, optional, choices, None, "")


@pytest.mark.parametrize(
    ("described", "text", "value"),
    [
        (field(("bool",)), "True", True),
        (field(("bool",)), "no", False),
        (field(("int",)), "3", 3),
        (field(("float",)), "1e-3", 0.001),
        (field(("str",), choices=("a", "b")), "b", "b"),
        (field(("dict",)), '{"click": 1.0}', {"click": 1.0}),
        (field(("dict", "str")), "{}", "{}"),
        (field(("list",), "int"), "50", 50),
        (field(("int", "str")), "45", "45"),
    ],
)
def test_flags_mean_what_transformers_parser_takes_them_for(described, text, value):
    assert described.parse(text) == value and type(described.parse(text)) is type(value)


@pytest.mark.parametrize(
    ("described", "text"),
    [
        (field(("bool",)), "perhaps"),
        (field(("int",)), "3.5"),
        (field(("str",), choices=("a",)), "c"),
        (field(("dict",)), "a"),
    ],
)
def test_text_that_means_nothing_is_refused(described, text):
    with pytest.raises(ValueError):
        described.parse(text)


@pytest.mark.parametrize(
    ("described", "value"),
    [
        (field(("int",)), 2.0),
        (field(("int",)), True),
        (field(("int",)), None),
        (field(("bool",)), 1),
        (field(("str",)), 3),
        (field(("list",), "int"), [1, "a"]),
        (field(("list",), "int"), 5),
        (field(("float",)), "x"),
    ],
)
def test_values_of_another_type_are_refused(described, value):
    with pytest.raises(ValueError, match=r"`train\.x` must be .* Received: "):
        described.check(value, "train.x")


def test_values_that_mean_the_same_are_taken():
    assert field(("float",)).check(2) == 2 and field(("float",)).check("1e-3") == 0.001
    assert field(("list",)).check([256, "256*"]) == [256, "256*"]
    assert field(("int",), optional=True).check(None) is None


def test_an_iso_date_needs_no_quotes():
    bound = field(("int", "str"), optional=True)
    for text in ("2017-11-05", "2017-11-05T10:00:00"):
        assert bound.check(yaml.safe_load(text)) == text
    with pytest.raises(ValueError, match="must be a whole number. Received: datetime.date"):
        field(("int",)).check(yaml.safe_load("2017-11-05"))


def test_suggestions_are_of_like_names():
    assert suggestion("hiden_size", ["hidden_size", "dropout"]) == " Did you mean `hidden_size`?"
    assert suggestion("zzz", ["hidden_size"]) == ""

"""Variants of a recipe: what is replaced, left out, or added."""

import pytest
from ablations import VARIANTS
from generative_search import tries_of
from measurement.runs import changed, slug

from gr4ad.pipeline import load_recipe
from gr4ad.pipeline.settings import NeighbourConfig


def test_sections_are_replaced_left_out_and_added():
    demo = load_recipe("demo")
    variant = changed(demo, {"align": {"beta": 1.0}, "lists": {"source": "beams"}})
    assert variant.align == {**demo.align, "beta": 1.0} and variant.lists.source == "beams"
    assert variant.lists.max_lists == demo.lists.max_lists and demo.align["beta"] == 0.5
    assert changed(demo, {"align": None}).align is None
    added = changed(demo, {"neighbours": {"decay": 0.5}}).neighbours
    assert demo.neighbours is None and added == NeighbourConfig(decay=0.5)
    assert changed(changed(demo, {"align": None}), {"align": {"beta": 2.0}}).align == {"beta": 2.0}


@pytest.mark.parametrize(("recipe", "name"), [(recipe, name) for recipe in VARIANTS for name in VARIANTS[recipe]])
def test_variants_differ_from_their_recipe(recipe, name):
    base = load_recipe(recipe)
    assert changed(base, VARIANTS[recipe][name]) != base


@pytest.mark.parametrize("recipe", ["amazon_beauty", "complete_journey"])
def test_tries_differ_from_their_recipe_and_each_other(recipe):
    base = load_recipe(recipe)
    tries = [changed(base, changes) for changes in tries_of(base).values()]
    assert all(recipe != other for place, recipe in enumerate(tries) for other in [base, *tries[:place]])
    assert len({slug(name) for name in tries_of(base)}) == len(tries)


def test_variants_of_a_recipe_have_folders_of_their_own():
    for variants in VARIANTS.values():
        assert len({slug(name) for name in variants}) == len(variants)

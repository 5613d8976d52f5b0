"""Recipes and the stages they run."""

from .recipe import Recipe, RecipeError, load_recipe, packaged_recipes
from .run import run_recipe

__all__ = ["Recipe", "RecipeError", "load_recipe", "packaged_recipes", "run_recipe"]

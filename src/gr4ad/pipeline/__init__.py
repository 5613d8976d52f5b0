"""Recipes and the stages they run."""

from typing import TYPE_CHECKING

from gr4ad.trainers.lazy_names import lazy_names

if TYPE_CHECKING:
    from .recipe import Recipe as Recipe
    from .recipe import RecipeError as RecipeError
    from .recipe import load_recipe as load_recipe
    from .recipe import packaged_recipes as packaged_recipes
    from .run import run_recipe as run_recipe

__getattr__, __all__ = lazy_names(
    __name__, {"recipe": "Recipe RecipeError load_recipe packaged_recipes", "run": "run_recipe"}
)

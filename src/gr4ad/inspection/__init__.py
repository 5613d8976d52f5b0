"""What a folder of data holds, and the recipe that follows from it, from a bounded sample and without torch."""

from .inspecting import Inspection, inspect_folder, write_recipe

__all__ = ["Inspection", "inspect_folder", "write_recipe"]

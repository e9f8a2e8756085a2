"""The configuration of a run: frozen tables, filled from a recipe's TOML and `--set key=value`. Needs no torch."""

from aslfast.config.load import about_recipe, from_tree, load_recipe, recipe_names
from aslfast.config.schema import RunConfig
from aslfast.config.toml import to_toml

__all__ = ["RunConfig", "about_recipe", "from_tree", "load_recipe", "recipe_names", "to_toml"]

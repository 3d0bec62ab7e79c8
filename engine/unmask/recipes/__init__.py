"""Recipes that ship with the package, one YAML file each; a recipe states only what differs from the defaults."""

"""Recipes for fine-tuning: settings of published experiments, one YAML file each."""

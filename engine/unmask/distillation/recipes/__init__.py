"""Recipes for distillation on a task: the settings of Jiao et al. 2020 (arXiv:1909.10351), one YAML file each."""

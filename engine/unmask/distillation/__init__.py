"""Distillation: a student learns the states and the predictions of a teacher (Jiao et al. 2020, arXiv:1909.10351)."""

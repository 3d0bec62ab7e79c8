"""Pre-training: the step, the optimizer and its schedule, checkpoints, logs, and the loop over them.

`pretrain.pretrain(config)` runs all of it. Nothing is imported here, because `step`, `optim` and `schedule` need only
PyTorch and NumPy.
"""

__all__: list[str] = []

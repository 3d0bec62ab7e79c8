"""Pre-training: the step, the optimizer and its schedule, checkpoints, logs, and the loop that joins them.

`pretrain.pretrain(config)` is the whole of it. `step`, `optim` and `schedule` need PyTorch and NumPy alone, so nothing
is imported here.
"""

__all__: list[str] = []

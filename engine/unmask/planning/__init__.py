"""What a run will need, before it starts: memory, time and disk. `commands/plan.py` puts the parts together.

step_memory.py    memory of a training step, traced on tensors without values
step_time.py      seconds of a training step, from its operations and the speed of a device
devices.py        memory and speed of this machine and of GPUs
measured.py       the same two numbers from steps that really run
"""

"""What tests and benches of operations share, for anyone who has the kernels and a GPU.

inputs       `Case`, a named call, and `run`, which calls a function and differentiates it
compare      the criterion: at most twice the error of plain PyTorch
contracts    what every family keeps besides its numbers: determinism, one graph, gradients, refusals
gpu          checks that only a GPU can make: no waiting for the device, CUDA graphs
<family>     `<family>_case` makes a case, `CASES` lists those that are compared, `plain_<family>` is the formula in
             PyTorch's own functions (`masking` has none: its backends agree with the reference bit for bit)
"""

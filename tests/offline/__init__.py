"""What tests can know of kernels on a machine without a GPU; not part of the shipped package.

interpreter    runs test modules under Triton's interpreter, whose arithmetic it repairs: is the formula right?
memory_guard   refuses interpreted kernels that leave their tensors, or whose programs race
recorder       records the launches of a public function instead of starting them
launch_count   counts what a layer of the encoder launches
cases          which calls of each family are compiled
nvcc           compiles the kernels in CUDA C++ for sm_80 and sm_90a: registers, spills, instructions
aot            compiles recorded launches for sm_80 and sm_90: registers, spills, instructions
sass           reads the listing of a compiled kernel
in_flight      finds registers in a listing that are touched while a wgmma uses them
oldest         runs tests with the oldest Triton that is supported
emulator       runs the compiled code (PTX) on the CPU, on the machine in `ptx`: layouts, barriers, races between warps
host           runs CUDA C++ on the CPU, a fiber a thread: results, races, stray accesses, deadlocks, with file and line

pyproject.toml puts `tests` on the import path of pytest and mypy, so that this package is `offline`.
"""

"""A machine for PTX, on the CPU: the program as text, its memory, what instructions compute, products of matrices.

`program` reads it, `machine` steps through it with all threads of a program at once, `numbers` and `matrices` compute,
and `memory` remembers who touched what since the last barrier. `offline.emulator` runs launches on it.
"""

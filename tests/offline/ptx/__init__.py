"""A machine on the CPU that executes PTX, the text that Triton hands to NVIDIA's assembler.

program    reads the text: instructions, labels, parameters, types
machine    executes one program, all of its threads at once: registers, branches, memory, copies
numbers    computes the instructions that access no memory
matrices   computes the instructions of tensor cores
memory     records which warp accessed what since the last barrier, and so finds races

`offline.emulator` runs launches on this machine.
"""

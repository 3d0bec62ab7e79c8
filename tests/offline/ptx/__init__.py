"""A machine on the CPU that executes PTX, the text that Triton and nvcc hand to NVIDIA's assembler.

program    reads the text: instructions, labels, parameters, types
machine    executes one block, all threads at the same instruction at once: registers, branches, memory, copies
groups     knows which threads are at which instruction, and which of them wait for others
numbers    computes the instructions that access no memory
matrices   computes the instructions of tensor cores
memory     records which warp accessed what since the last barrier, and so finds races
order      does so for the blocks of a launch, by what counters publish

`offline.emulator` runs Triton's launches on this machine, and `offline.compiled` those of `csrc/`.
"""

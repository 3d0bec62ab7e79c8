"""Run CUDA C++ on a CPU: g++ compiles the same `.cu` files, and a thread of a kernel is a fiber.

    machine = Machine.build(Path("kernels/examples.cu"))
    with machine.device(schedule=3) as device:
        x = device.tensor(torch.randn(1000))
        sums = device.empty((4,), torch.float32)
        device.call("run_block_sum", x, sums, 1000, 4, 64)
    device.report.check()                       # raises with file and line of every race, stray access, deadlock, ...

include      what stands in the place of CUDA's headers, and of csrc/common/instructions.cuh
machine      the machine, in C++: fibers and schedules, order of memory, accesses, barriers, copies
kernels      small kernels on which the machine is tested
build        compiles kernels and machine into a library
device       memory, calls and schedules, from Python
report       what was found, with file and line
mutations    removes barriers, waits, fences and bounds checks one by one: is each removal noticed?
optimizer_backend: lets `_cuda.step` of the optimizer run on a device of the machine

Every load and store is seen without a change to the kernels: -fsanitize=thread puts a call in front of each, and the
machine defines these calls. Which accesses are races is decided by the order that barriers, fences and atomics give,
not by what a schedule happens to do. So one schedule finds most races; others find what depends on values.
"""

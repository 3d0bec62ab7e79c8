"""In a process that interprets kernels: repair the interpreter, and refuse accesses that a GPU must not make."""

from unmask_kernels.capability import INTERPRETING

if INTERPRETING:
    from offline.interpreter import repair_interpreter
    from offline.memory_guard import guard_memory

    repair_interpreter()
    guard_memory()

"""In a process that interprets kernels: repair and quicken the interpreter, and refuse accesses a GPU must not make."""

from unmask_kernels.capability import INTERPRETING

if INTERPRETING:
    from offline.interpreter import repair_interpreter
    from offline.memory_guard import guard_memory
    from offline.quick_interpreter import quicken_interpreter

    repair_interpreter()
    quicken_interpreter()
    guard_memory()

"""The work of the commands that use several parts of the package, as functions: `unmask.export` is `unmask export`.

`unmask.cli` reads the words of a command line, calls one of these functions and prints what it returns. `prepare` is in
`unmask.data` and `pretrain` in `unmask.train`. Nothing is imported here, so each function loads what it needs alone.
"""

__all__: list[str] = []

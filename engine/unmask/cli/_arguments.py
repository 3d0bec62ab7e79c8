"""Command lines as people write them: an option that takes several values may also be repeated."""

__all__ = ["join_repeated"]


def join_repeated(arguments: list[str], option: str) -> list[str]:
    """`--input a --input b` as `--input a b`; without this the last occurrence would silently win."""
    values: list[str] = []
    rest: list[str] = []
    taking = False
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            taking = name == option
            if taking and equals:
                values.append(value)
        if taking and not argument.startswith("--"):
            values.append(argument)
        elif not taking:
            rest.append(argument)
    return [*rest, option, *values] if values else arguments

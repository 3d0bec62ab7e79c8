"""Which layer of the teacher each layer of the student learns: g(m) of Jiao et al. 2020 (arXiv:1909.10351).

    uniform   g(m) = m N / M          a student of 4 layers learns layers 3, 6, 9 and 12 of 12
    top       g(m) = m + N - M        layers 9, 10, 11 and 12
    bottom    g(m) = m                layers 1, 2, 3 and 4
    last      g(M) = N                the last layer alone, as in MiniLM (Wang et al. 2020, arXiv:2002.10957)

Layers count from 1; the embeddings are 0, and g(0) = 0 always.
"""

from collections.abc import Sequence

from unmask.errors import ConfigError

__all__ = ["layer_map"]


def layer_map(kind: str, *, teacher: int, student: int, layers: Sequence[int] = ()) -> dict[int, int]:
    """Return the layer of the teacher for each layer of the student that learns one.

    Args:
        kind: uniform, top, bottom or last.
        teacher: layers of the teacher, N.
        student: layers of the student, M.
        layers: one layer of the teacher for each of the student, in the place of `kind`.
    Raises:
        ConfigError: there is no such map between these depths.
    """
    if layers:
        return _given(layers, teacher=teacher, student=student)
    if kind == "last":
        return {student: teacher}
    if student > teacher or (kind == "uniform" and teacher % student):
        relation, others = ("are more than", "last") if student > teacher else ("do not divide", "top, bottom or last")
        fitting = [str(number) for number in range(1, teacher + 1) if teacher % number == 0]
        raise ConfigError(
            f"config: distillation.map is {kind!r} but the student's {student} layers {relation} the teacher's "
            f"{teacher}; give --distillation.map {others}, give {student} numbers from 1 to {teacher} as "
            f"--distillation.layers, or take a student of {' or '.join(fitting)} layers"
        )
    offset = {"uniform": 0, "top": teacher - student, "bottom": 0}[kind]
    step = teacher // student if kind == "uniform" else 1
    return {layer: step * layer + offset for layer in range(1, student + 1)}


def _given(layers: Sequence[int], *, teacher: int, student: int) -> dict[int, int]:
    if len(layers) != student:
        raise ConfigError(
            f"config: distillation.layers must have a number for each of the student's {student} layers, got "
            f"{len(layers)}; give {student} numbers from 1 to {teacher}"
        )
    outside = [layer for layer in layers if not 1 <= layer <= teacher]
    if outside:
        raise ConfigError(
            f"config: distillation.layers must be layers of the teacher, from 1 to {teacher}, got {outside[0]}; give "
            f"{student} numbers from 1 to {teacher}"
        )
    return dict(enumerate(layers, start=1))

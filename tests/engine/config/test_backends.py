"""The table of backends that help texts read is that of the kernels."""

from unmask.config.backends import BACKENDS
from unmask_kernels import FAMILIES


def test_the_table_names_every_backend_of_every_operation_in_the_order_of_choice() -> None:
    assert dict(BACKENDS) == {name: tuple(family.backends) for name, family in FAMILIES.items()}

"""What the tests of advice share: do what is wrong, compare the words, then do what they advise."""

from collections.abc import Callable

import pytest

from unmask.errors import UnmaskError
from unmask_kernels import BackendUnavailable
from unmask_kernels.machine_record import NotRecorded
from unmask_kernels.verify import CannotVerify

Action = Callable[[], object]
REFUSALS = (UnmaskError, BackendUnavailable, CannotVerify, NotRecorded, ValueError, TypeError, IndexError)


def refusal(wrong: Action) -> str:
    """Return the message with which something is refused."""
    with pytest.raises(REFUSALS) as caught:
        wrong()
    return str(caught.value)


def follow(wrong: Action, told: str, *advised: Action) -> None:
    """Require that what is wrong is refused in these words, and that each thing that they advise works.

    Args:
        wrong: what is refused.
        told: what the message says and its way out; ` ... ` stands for any words.
        advised: what the message advises, each way out in turn.
    """
    message, place = refusal(wrong), 0
    for part in told.split(" ... "):
        place = message.find(part, place)
        assert place >= 0, f"{part!r} is not in {message!r}"
        place += len(part)
    for action in advised:
        action()

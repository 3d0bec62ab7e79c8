"""A Hub that takes uploads."""

from pathlib import Path

import pytest

from local_hub import LocalHub, log_in


@pytest.fixture
def hub(hub: LocalHub, home: Path) -> LocalHub:
    """The Hub on this machine, logged in."""
    log_in(home)
    return hub

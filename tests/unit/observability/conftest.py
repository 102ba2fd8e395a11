from __future__ import annotations

import pytest

from goplugins import Manager, PluginConfig
from tests.unit.observability.fakes import Raiser


@pytest.fixture
def manager():
    """A manager with a plugin "moody" that raises the class of error that is its request."""
    with Manager() as manager:
        manager.register(Raiser(), PluginConfig(name="moody"))
        yield manager

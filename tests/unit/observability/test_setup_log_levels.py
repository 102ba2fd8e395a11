"""Levels of loggers: set where a configuration has one, by each manager that has one, and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins import Manager, ManagerConfig, ObservabilityConfig, PluginConfig, TransportType

LEVELS = ("debug", "info", "warn", "warning", "error", "critical")
PLUGIN = PluginConfig(name="p", transport=TransportType.UNIX, endpoint="/run/p")
LOGGERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "goplugins": lambda level: {"log_level": level},
    "goplugins.calls": lambda level: {"observability": {"log_level": level}},
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.NOTSET)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(params=LOGGERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def config(name: str, level: str | None) -> dict[str, Any]:
    return {"plugins": [PLUGIN], **({} if level is None else LOGGERS[name](level))}


def test_no_level_is_set_unless_it_is_written(name: str) -> None:
    with Manager() as first, Manager() as second:
        first.load_from_config(config(name, None))
        second.load_from_config(ManagerConfig(plugins=(PLUGIN,)).with_defaults())
        first.reload_config(config(name, None))
    assert {logger: logging.getLogger(logger).level for logger in LOGGERS} == dict.fromkeys(LOGGERS, logging.NOTSET)


@pytest.mark.parametrize("written", LEVELS)
@pytest.mark.parametrize("before", LEVELS)
def test_a_written_level_replaces_that_of_another_manager_and_of_the_application(
    name: str, before: str, written: str
) -> None:
    logger = logging.getLogger(name)
    with Manager() as first, Manager() as second, Manager() as third:
        first.load_from_config(config(name, before))
        second.load_from_config(config(name, written))
        assert logger.level == number(written)
        logger.setLevel(before.upper())
        third.load_from_config(config(name, written))
        assert logger.level == number(written)


def test_a_level_written_in_code_counts_as_one_in_a_file() -> None:
    logging.getLogger("goplugins").setLevel(logging.ERROR)
    logging.getLogger("goplugins.calls").setLevel(logging.ERROR)
    with Manager() as manager:
        written = ObservabilityConfig(log_level="info")
        manager.load_from_config(ManagerConfig(log_level="info", observability=written, plugins=(PLUGIN,)))
    assert [logging.getLogger(name).level for name in LOGGERS] == [logging.INFO, logging.INFO]


def test_a_written_level_of_calls_that_equals_the_managers_is_set_too() -> None:
    with Manager() as first, Manager() as second:
        first.load_from_config({"plugins": [PLUGIN], "observability": {"log_level": "error"}})
        second.load_from_config({"plugins": [PLUGIN], "log_level": "debug", "observability": {"log_level": "debug"}})
    assert logging.getLogger("goplugins.calls").level == logging.DEBUG


def test_a_level_that_is_no_longer_written_is_taken_back(name: str) -> None:
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)
    with Manager() as manager:
        for level in ("debug", "error"):
            manager.reload_config(config(name, level))
            assert logger.level == number(level)
        manager.reload_config(config(name, None))
        assert logger.level == logging.WARNING


def test_a_level_that_the_application_sets_later_stays_until_the_configured_one_changes(name: str) -> None:
    logger = logging.getLogger(name)
    with Manager() as manager:
        manager.load_from_config(config(name, "error"))
        logger.setLevel(logging.DEBUG)
        manager.reload_config(config(name, "error"))
        assert logger.level == logging.DEBUG
        manager.reload_config(config(name, None))
        assert logger.level == logging.DEBUG
        manager.reload_config(config(name, "critical"))
        assert logger.level == logging.CRITICAL

"""Managers in other processes: what travels is where a manager came from, and each process makes one of its own.

Threads, connections and processes can't travel, and credentials should not. So a manager pickles as its types, its
sizes and its configuration as it was given: a file's path, or values with ``${VAR}`` still in them.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.config import ManagerConfig
from goplugins.config.loading import _opened
from goplugins.config.problems import Path, path_text
from goplugins.config.schema import fields_of, plain
from goplugins.manager.reload_steps import Turn
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import register_forkable

if TYPE_CHECKING:
    from goplugins.manager.bound import BoundPlugin
    from goplugins.manager.lifecycle import ConfigSource, Lifecycle
    from goplugins.manager.manager import Manager
    from goplugins.runtime.workers import WorkerPool

__all__ = ["PickledState", "kept"]

# Dicts, since their operations are atomic.
_at_home: dict[str, weakref.ref[Manager[Any, Any]]] = {}
_from_elsewhere: dict[tuple[str, int], Manager[Any, Any]] = {}

MOST = 16
"""Managers from other processes that are kept while nobody uses them: the next task may bring the same again."""


def _drop(managers: dict[str, weakref.ref[Manager[Any, Any]]], token: str, _: object) -> None:
    managers.pop(token, None)


def kept(source: ConfigSource) -> ConfigSource:
    """A configuration's source as it was at loading, whatever becomes of the working directory or of a mapping."""
    if isinstance(source, ManagerConfig):
        return source
    if isinstance(source, Mapping):
        return _opened(source)  # type: ignore[no-any-return]
    return os.path.abspath(os.fspath(source))


@attrs.frozen
class _State:
    """What travels.

    Attributes:
        token: tells managers apart, over all processes.
        loads: how often the manager had loaded a configuration: another one is another manager, elsewhere.
        types: request and response type; None where there are none.
        source: the configuration; None if it has loaded none.
    """

    token: str
    loads: int
    types: tuple[Any, Any] | None
    max_workers: int
    max_queued: int
    source: ConfigSource | None


class PickledState:
    """What another process needs to make a manager like this one. Belongs to the manager and its bound plugins.

    Args:
        manager: whoever unpickles it in this very process, or in a forked child, finds it again while it lives.
        lifecycle: knows its configuration.
        pool: knows its sizes.
        types: its request and response type; None where there are none.
        clock: what it goes by.

    Attributes:
        token: tells managers apart, over all processes.
    """

    def __init__(
        self,
        manager: Manager[Any, Any],
        lifecycle: Lifecycle,
        pool: WorkerPool,
        types: tuple[Any, Any] | None,
        clock: Clock,
    ) -> None:
        self.token = token = uuid.uuid4().hex
        self._lifecycle = lifecycle
        self._pool = pool
        self._types = types
        self._clock = clock
        self._checked = -1  # the last load that was found fit
        _at_home[token] = weakref.ref(manager, partial(_drop, _at_home, token))

    def of_manager(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What ``Manager.__reduce__`` returns.

        Raises:
            TypeError: it can't travel, and why.
        """
        return _manager, (self._state(),)

    def of_bound(self, name: str, types: tuple[Any, Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What ``BoundPlugin.__reduce__`` returns.

        Raises:
            TypeError: its manager can't travel, and why.
        """
        return _bound, (self._state(), name, types)

    def _state(self) -> _State:
        loads, source = self._lifecycle.loaded
        state = _State(self.token, loads, self._types, self._pool.max_workers, self._pool.max_queued, source)
        if self._checked != loads and source is not None:
            _check_source(source)
            self._checked = loads
        registry = self._lifecycle.registry
        in_code = sorted(name for name, plugin in registry.plugins.items() if not plugin.from_config)
        factories = sorted(self._lifecycle.builder.registered)
        if registry.closed:
            raise _refusal("it was shut down")
        if in_code:
            raise _refusal(f"plugins were registered in code ({', '.join(in_code)}): register them in each process")
        if factories:
            raise _refusal(f"factories were registered in code ({', '.join(factories)}): make one in each process")
        if self._clock is not SYSTEM_CLOCK:
            raise _refusal("it goes by a clock of its own")
        return state


def _refusal(reason: str) -> TypeError:
    return TypeError(f"this manager does not pickle: {reason}")


def _check_source(source: ConfigSource) -> None:
    if isinstance(source, str):
        return
    secrets = list(literal_secrets(source))
    if secrets:
        raise _refusal(
            f"its configuration holds literal values that may be secret ({', '.join(secrets)}): "
            "write ${VAR} for them, or load it from a file"
        )
    try:
        pickle.dumps(source)
    except Exception as exc:
        raise _refusal(f"its configuration holds something that does not: {exc}") from exc


# --- secrets ---------------------------------------------------------------------------------------------------

_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(?::([^}]*))?\}")


def literal_secrets(source: ConfigSource) -> Iterator[str]:
    """Paths of all that would be masked and does not come from the environment.

    >>> auth = {"method": "bearer", "token": "s3cr3t"}
    >>> list(literal_secrets({"plugins": [{"name": "a", "endpoint": "http://${HOST}", "auth": auth}]}))
    ['plugins[0].auth.token']
    """
    yield from _literal(ManagerConfig, _opened(source), ())


def _literal(kind: type[Any], values: Any, path: Path) -> Iterator[str]:
    if not isinstance(values, Mapping):
        return
    for field in fields_of(kind):
        value, here = values.get(field.name), (*path, field.name)
        if value is None:
            continue
        item = field.item
        if field.masked is not None:
            bare = plain(_without_references(value))
            if _hidden(bare, plain(field.masked.mask(bare))):
                yield path_text(here)
        elif field.section is not None:
            yield from _literal(field.section, value, here)
        elif isinstance(item, type) and attrs.has(item) and isinstance(value, list | tuple):
            for index, each in enumerate(value):
                yield from _literal(item, each, (*here, index))


def _without_references(value: Any) -> Any:
    """A copy with only the defaults left of each ``${VAR:default}``."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: found[1] or "", value)
    if isinstance(value, Mapping):
        return {key: _without_references(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_references(item) for item in value]
    return value


def _hidden(bare: Any, masked: Any) -> bool:
    """Whether masking has hidden more than punctuation."""
    if isinstance(bare, Mapping) and isinstance(masked, Mapping):
        return any(_hidden(value, masked.get(key)) for key, value in bare.items())
    if isinstance(bare, list) and isinstance(masked, list):
        return any(map(_hidden, bare, masked))
    if bare == masked:
        return False
    if not (isinstance(bare, str) and isinstance(masked, str)):
        return True
    return sum(map(str.isalnum, masked)) < sum(map(str.isalnum, bare))


# --- on the other side -----------------------------------------------------------------------------------------


class Pending:
    """A configuration that came from another process and is loaded by the first who needs it.

    Not when it arrives: an error in there would take down a worker, and not tell the one who calls.
    """

    def __init__(self, lifecycle: Lifecycle, loads: int, source: ConfigSource) -> None:
        self._lifecycle = lifecycle
        self._loaded = (loads, source)
        self._turn = Turn()
        register_forkable(self)

    def __call__(self) -> None:
        """Loads it, once; threads that come meanwhile wait. Raises what is wrong with it, to each that comes."""
        registry = self._lifecycle.registry
        with self._turn.take(math.inf):
            if registry.load is self:
                self._lifecycle.load(self._loaded[1])
                self._lifecycle.loaded = self._loaded
                registry.load = None

    def after_fork_in_child(self) -> None:
        """The thread that had the turn has it in the parent."""
        self._turn.after_fork_in_child()


def _manager(state: _State) -> Manager[Any, Any]:
    """This process's manager for that state: the original, one that was made before, or a new one."""
    original = _at_home.get(state.token)
    found = None if original is None else original()
    if found is not None:
        return found
    key = (state.token, state.loads)
    found = _from_elsewhere.get(key)
    if found is None:
        found = _from_elsewhere.setdefault(key, _new(state))
        outdated = [old for old in list(_from_elsewhere) if old[0] == state.token and old != key]
        for old in [*outdated, *list(_from_elsewhere)[:-MOST]]:
            _from_elsewhere.pop(old, None)  # its calls go on; it is collected with the last of them
    return found


def _new(state: _State) -> Manager[Any, Any]:
    from goplugins.manager.manager import Manager

    types = state.types or (None, None)
    made: Manager[Any, Any] = Manager(*types, max_workers=state.max_workers, max_queued=state.max_queued)
    lifecycle, recipe = made._life, made._caller.recipe
    _at_home.pop(recipe.token, None)
    recipe.token = state.token
    lifecycle.loaded = (state.loads, state.source)
    if state.source is not None:
        lifecycle.registry.load = Pending(lifecycle, state.loads, state.source)
    return made


def _bound(state: _State, name: str, types: tuple[Any, Any]) -> BoundPlugin[Any, Any]:
    return _manager(state).bind(name, *types)

"""Values pickled before modules were moved can be loaded; see ``tests/data/pickled_values.py``."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

import goplugins
from goplugins.errors import PluginError
from goplugins.manager import pickling

DATA = Path(__file__).parents[1] / "data"
BEFORE = json.loads((DATA / "pickles-before-move.json").read_text())


@pytest.fixture
def pickled_values(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that wrote the data; it also has the plugin of the pickled managers."""
    monkeypatch.syspath_prepend(DATA)
    monkeypatch.setenv("TOKEN", "secret")
    yield importlib.import_module("pickled_values")
    pickling._unpickled.clear()


@pytest.fixture(params=["2", "5"])
def load(request: pytest.FixtureRequest, pickled_values: Any) -> Any:
    return lambda name: pickle.loads(pickled_values.unpacked(BEFORE["pickles"][name][request.param]))


def test_values(pickled_values: Any, load: Any) -> None:
    expected = pickled_values.values()
    for name, value in load("values").items():
        if isinstance(value, list):  # of an enumeration, which may have got further members
            expected[name] = [member for member in expected[name] if member in value]
        assert value == expected[name], name


def test_errors(pickled_values: Any, load: Any) -> None:
    expected = pickled_values.errors_of_all_classes()
    for name, error in load("errors").items():
        assert type(error) is type(expected[name])
        assert str(error) == str(expected[name])
        if isinstance(error, PluginError):
            assert (error.plugin, error.attempts, error.elapsed) == (
                (expected[name].plugin, expected[name].attempts, expected[name].elapsed)
            )
            assert repr(error.__cause__) == repr(expected[name].__cause__)


@pytest.mark.parametrize("name", ["manager", "manager of a ManagerConfig"])
def test_a_manager(load: Any, name: str) -> None:
    manager = load(name)
    assert manager.execute("square", 3) == 9
    assert (manager._call_pool.max_workers, manager._call_pool.max_queued) == (3, 5)
    assert load(name) is manager
    manager.shutdown()


def test_a_manager_without_configuration(load: Any) -> None:
    assert load("manager that has loaded nothing").list_plugins() == {}


@pytest.mark.parametrize(("name", "arguments"), [("bound plugin", (3,)), ("bound method", ("square", 3))])
def test_a_bound_plugin_and_a_bound_method(load: Any, name: str, arguments: tuple[Any, ...]) -> None:
    assert load(name)(*arguments) == 9


@pytest.mark.parametrize(("name", "module", "attribute"), BEFORE["names"])
def test_classes_and_functions(name: str, module: str, attribute: str) -> None:
    if name == "PluginFactory":
        pytest.skip("a protocol, which belongs to a package above the former one")
    reference = f"c{module}\n{attribute}\n.".encode()  # protocol 0: GLOBAL, STOP
    assert pickle.loads(reference) is getattr(goplugins, name)


def test_former_modules_have_no_other_names() -> None:
    module = importlib.import_module("goplugins.reload.diff")
    with pytest.raises(AttributeError, match=r"'goplugins\.reload\.diff' has no attribute 'Manager'"):
        _ = module.Manager
    with pytest.raises(AttributeError, match=r"'goplugins\.models' has no attribute 'Manager'"):
        _ = importlib.import_module("goplugins.models").Manager  # type: ignore[attr-defined]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("goplugins.reload.nothing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("goplugins.nothing")


def test_former_modules_are_not_loaded_without_old_pickles() -> None:
    code = """if True:
        import sys
        before = list(sys.meta_path)
        import goplugins
        goplugins.Manager().shutdown()
        assert "goplugins._moved_modules" not in sys.modules
        added = [finder for finder in sys.meta_path if finder not in before]
        assert sys.meta_path[-1:] == added, added
        """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_data_have_a_value_of_each_value_class(pickled_values: Any) -> None:
    covered = {type(value) for value in pickled_values.values().values()}
    public = {name: getattr(goplugins, name) for name in goplugins.__all__}
    assert {name for name, kind in public.items() if attrs.has(kind) and kind not in covered} == set()  # type: ignore[arg-type]

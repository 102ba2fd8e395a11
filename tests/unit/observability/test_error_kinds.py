"""Kinds and codes of errors."""

from __future__ import annotations

from goplugins import (
    PluginTimeoutError,
    errors,
)
from goplugins.errors import PluginError
from goplugins.observability.error_kinds import code_of_error, kind_of_code, kind_of_error


def test_every_error_code_has_a_kind():
    classes = [getattr(errors, name) for name in errors.__all__]
    codes = {cls.code for cls in classes if isinstance(cls, type) and issubclass(cls, PluginError)}
    kinds = {kind_of_code(code) for code in codes}
    assert "interrupted" not in kinds
    assert kind_of_code("KeyboardInterrupt") == kind_of_error(KeyboardInterrupt()) == "interrupted"
    assert kind_of_code("MYAPP_7") == "plugin"  # of an application's own class


def test_the_code_of_a_foreign_exception_is_its_class_name():
    assert code_of_error(SystemExit("a text of any kind")) == "SystemExit"
    assert code_of_error(PluginTimeoutError("late")) == PluginTimeoutError.code

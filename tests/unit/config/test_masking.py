from __future__ import annotations

import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from goplugins.config import AuthConfig, FallbackConfig, ManagerConfig, PluginConfig, RetryConfig
from goplugins.config.manager import load
from goplugins.errors import ConfigError, InvalidConfigError

SECRET = "hunter2"

FULL = ManagerConfig(
    plugins=[
        PluginConfig(
            name="a",
            transport="https",
            endpoint=f"https://me:{SECRET}@host/p?key={SECRET}",
            auth=AuthConfig(
                method="bearer", api_key=SECRET, token=SECRET, username="me", password=SECRET, headers={"X-Key": SECRET}
            ),
            env=[f"PASSWORD={SECRET}", SECRET],
            options={
                "proxy": f"http://me:{SECRET}@proxy:3128",
                "db_password": SECRET,
                "nested": [{"apiKey": SECRET, "url": f"redis://:{SECRET}@host"}],
                "plain": "shown",
            },
            labels={"shown": "too"},
        )
    ]
)


def test_repr_masks_secrets() -> None:
    text = repr(FULL) + str(FULL) + repr(FULL.plugins[0].auth)
    assert SECRET not in text
    assert "https://***@host/p?***" in text
    assert "'X-Key': '***'" in text
    assert "'plain': 'shown'" in text
    assert "PASSWORD=***" in text


def test_repr_shows_only_fields_that_are_set() -> None:
    assert repr(RetryConfig(max_retries=1)) == "RetryConfig(max_retries=1)"
    assert repr(ManagerConfig()) == "ManagerConfig()"


def test_repr_of_an_invalid_value() -> None:
    values: dict[str, Any] = {"name": 5, "auth": AuthConfig(headers="x", token=5), "env": "x", "options": []}  # type: ignore[arg-type]
    expected = "PluginConfig(name=5, env='***', auth=AuthConfig(token='***', headers='***'), options=[])"
    assert repr(PluginConfig(**values)) == expected


def test_to_json_masks_secrets_by_default() -> None:
    masked = FULL.to_json()
    assert SECRET not in masked
    assert json.loads(masked)["plugins"][0]["auth"]["token"] == "***"
    whole = FULL.to_json(include_secrets=True)
    assert ManagerConfig.from_json(whole) == FULL


def test_masked_json_can_not_be_loaded() -> None:
    with pytest.raises(ConfigError) as caught:
        ManagerConfig.from_json(FULL.to_json()).validate()
    text = str(caught.value)
    assert "plugins[0].auth.token: is ***, the placeholder of a secret that was masked" in text


def test_to_json_refuses_values_that_only_code_can_set() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        ManagerConfig(
            plugins=[
                PluginConfig(
                    fallback=FallbackConfig(function=lambda request, error: None),
                    options={"x": object(), "y": float("nan"), "z": {1: 2}},
                )
            ]
        ).to_json()
    assert {problem.path for problem in caught.value.problems} == {
        "plugins[0].fallback.function",
        "plugins[0].options.x",
        "plugins[0].options.y",
        "plugins[0].options.z",
    }


@pytest.mark.parametrize(
    ("text", "path", "fix"),
    [
        ("auth: {method: bearer, token:s3cr3t}", "plugins[0].auth['token...']", "a space is missing after the colon"),
        ("auth: {method: bearer, token=s3cr3t}", "plugins[0].auth['token...']", "write token: and then the value"),
        ("auth: {method: bearer, token s3cr3t}", "plugins[0].auth['token...']", "did you mean 'token'?"),
        ("auth: {method: bearer, tokn:s3cr3t}", "plugins[0].auth['tokn...']", "a space is missing after the colon"),
        ("auth: {method: bearer, %ss3cr3t}" % ("x" * 40), f"plugins[0].auth['{'x' * 40}...']", "known fields"),
        ("auth: {method: custom, headers: {Cookie:s3cr3t}}", "plugins[0].auth.headers['Cookie...']", "a string"),
        ("options: {proxy:s3cr3t}", "plugins[0].options['proxy...']", "a space is missing"),
        ("auth: {token:s3cr3t, token:s3cr3t}", "", "correct the YAML"),
    ],
)
def test_messages_do_not_show_a_value_in_a_key(tmp_path: Path, text: str, path: str, fix: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"plugins:\n- {{name: a, transport: http, endpoint: 'http://h', {text}}}\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    problems = caught.value.problems
    assert path in [problem.path for problem in problems] or not path
    assert fix in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    for text in (str(caught.value), shown, repr(pickle.dumps(caught.value)), repr(caught.value.args)):
        assert "s3cr3t" not in text


def test_a_duplicate_json_key_does_not_show_a_value_in_it() -> None:
    with pytest.raises(ConfigError, match=r"'token\.\.\.' occurs more than once") as caught:
        ManagerConfig.from_json('{"token:s3cr3t": 1, "token:s3cr3t": 2}')
    assert "s3cr3t" not in str(caught.value)

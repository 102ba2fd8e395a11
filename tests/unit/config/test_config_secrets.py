from __future__ import annotations

import json
from typing import Any

import pytest

from goplugins.config import AuthConfig, FallbackConfig, ManagerConfig, PluginConfig, RetryConfig
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


def test_repr_hides_every_secret_and_names_what_is_set() -> None:
    text = repr(FULL) + str(FULL) + repr(FULL.plugins[0].auth)
    assert SECRET not in text
    assert "https://***@host/p?***" in text
    assert "'X-Key': '***'" in text
    assert "'plain': 'shown'" in text
    assert "PASSWORD=***" in text


def test_repr_says_only_what_was_set() -> None:
    assert repr(RetryConfig(max_retries=1)) == "RetryConfig(max_retries=1)"
    assert repr(ManagerConfig()) == "ManagerConfig()"


def test_repr_of_a_wrongly_made_value_works() -> None:
    values: dict[str, Any] = {"name": 5, "auth": AuthConfig(headers="x", token=5), "env": "x", "options": []}  # type: ignore[arg-type]
    expected = "PluginConfig(name=5, env='***', auth=AuthConfig(token='***', headers='***'), options=[])"
    assert repr(PluginConfig(**values)) == expected


def test_to_json_masks_unless_asked() -> None:
    masked = FULL.to_json()
    assert SECRET not in masked
    assert json.loads(masked)["plugins"][0]["auth"]["token"] == "***"
    whole = FULL.to_json(include_secrets=True)
    assert ManagerConfig.from_json(whole) == FULL


def test_a_masked_text_is_refused_when_it_comes_back() -> None:
    with pytest.raises(ConfigError) as caught:
        ManagerConfig.from_json(FULL.to_json()).validate()
    text = str(caught.value)
    assert "plugins[0].auth.token: is ***, which stands for a secret that was left out" in text


def test_to_json_refuses_what_only_code_can_hold() -> None:
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

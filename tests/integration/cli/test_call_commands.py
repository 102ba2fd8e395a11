"""``goplugins call``, ``health`` and ``bench``: results on stdout, errors on stderr, exit codes for scripts."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time

import pytest

from goplugins.cli import main
from tests.integration.cli.conftest import REQUESTS

pytestmark = pytest.mark.usefixtures("folder")


def run(*arguments, capsys):
    code = main(list(arguments))
    output = capsys.readouterr()
    return code, output.out, output.err


# --- call ------------------------------------------------------------------------------------------------------------


def test_a_response_is_printed_as_json(capsys):
    code, out, err = run("call", "-c", "plugins.yaml", "greet", '{"name": "you"}', capsys=capsys)
    assert (code, err) == (0, "")
    assert json.loads(out) == {"text": "hello you, ünïcode"}
    assert "ünïcode" in out


def test_a_request_is_read_from_stdin(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"name": "pipe"}'))
    code, out, _ = run("call", "-c", "plugins.yaml", "greet", "-", capsys=capsys)
    assert code == 0
    assert "hello pipe" in out


def test_member_attempts_and_duration_are_printed_to_stderr(capsys):
    code, out, err = run("call", "-c", "plugins.yaml", "greet", "{}", "-v", "--idempotent", "--key", "k", capsys=capsys)
    assert code == 0
    assert json.loads(out)
    assert err.startswith("plugin greet, 1 attempt(s), ")


def test_a_rejection_is_one_line_without_control_characters(capsys):
    code, out, err = run("call", "-c", "plugins.yaml", "greet", '{"name": "eve"}', capsys=capsys)
    assert (code, out) == (1, "")
    assert "[PLUGIN_1203]" in err
    assert "not you" in err
    assert "\x1b" not in err
    assert err.count("\n") == 1


def test_a_failure_shows_its_retry_after(capsys):
    arguments = ("call", "-c", "plugins.yaml", "greet", '{"name": "later"}', "--timeout", "1")
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 1
    assert "warming up" in err
    assert "(try again in 7.0 s)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plugins.yaml", "greet", "hello"), "the request is not JSON"),
        (("plugins.yaml", "great", "{}"), "did you mean 'greet'?"),
        (("broken.yaml", "x", "{}"), "broken.yaml"),
        (("missing.yaml", "x", "{}"), "missing.yaml"),
        (("plugins.yaml", "greet", "{}", "--header", "nonsense"), "expected NAME=VALUE"),
        (("plugins.yaml", "greet", "{}", "--timeout", "-1"), "timeout"),
    ],
)
def test_wrong_usage_has_exit_code_2(arguments, message, capsys):
    code, out, err = run("call", "--config", *arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert message in err


def test_headers_are_sent(capsys):
    code, _, _ = run("call", "-c", "plugins.yaml", "greet", "{}", "--header", "X-Tenant=a=b", capsys=capsys)
    assert code == 0


# --- health ----------------------------------------------------------------------------------------------------------


OPERATIONS = """\
plugins:
- {name: shop, transport: python, endpoint: "tests.integration.cli.conftest:named", operations: {get: {}, put: {}}}
"""


def test_an_operation_is_called(folder, capsys):
    (folder / "operations.yaml").write_text(OPERATIONS)
    code, out, err = run("call", "-c", "operations.yaml", "shop", "1", "--operation", "put", capsys=capsys)
    assert (code, json.loads(out), err) == (0, "put", "")
    code, out, err = run("call", "-c", "operations.yaml", "shop", "1", "--operation", "pot", capsys=capsys)
    assert (code, out) == (2, "")
    assert "operation 'pot' is not configured" in err
    arguments = ["--seconds", "0.05", "--warmup", "0", "--operation", "get"]
    code, out, _ = run("bench", "-c", "operations.yaml", "shop", *arguments, capsys=capsys)
    assert code == 0


def test_health_of_healthy_plugins_has_exit_code_0(capsys):
    code, out, _ = run("health", "-c", "plugins.yaml", capsys=capsys)
    assert code == 0
    assert out.splitlines()[0].split() == ["plugin", "status", "took", "message"]
    assert out.splitlines()[1].split()[:2] == ["greet", "healthy"]
    assert "hunter2" not in out


def test_health_with_a_plugin_that_is_down_has_exit_code_1(capsys):
    code, out, _ = run("health", "-c", "mixed.yaml", capsys=capsys)
    assert code == 1
    assert "connection refused" in out
    assert run("health", "-c", "mixed.yaml", "greet", capsys=capsys)[0] == 0
    assert run("health", "-c", "mixed.yaml", "gone", capsys=capsys)[0] == 1


def test_health_as_json(capsys):
    code, out, _ = run("health", "-c", "mixed.yaml", "--json", capsys=capsys)
    assert code == 1
    found = json.loads(out)
    assert found["greet"]["status"] == "healthy"
    assert found["gone"]["status"] in {"unhealthy", "offline"}


def test_health_of_an_unknown_name_has_exit_code_2(capsys):
    code, _, err = run("health", "-c", "plugins.yaml", "great", capsys=capsys)
    assert code == 2
    assert "did you mean 'greet'?" in err


# --- bench -----------------------------------------------------------------------------------------------------------

SHORT = ("--seconds", "0.3", "--warmup", "0.1")


def test_a_bench_reports_rates_and_percentiles(capsys):
    code, out, _ = run("bench", "-c", "plugins.yaml", "greet", "{}", *SHORT, "--concurrency", "2", capsys=capsys)
    assert code == 0
    assert "by 2 callers" in out
    assert "p99.9" in out


def test_a_bench_as_json_is_consistent(capsys):
    code, out, _ = run("bench", "-c", "plugins.yaml", "greet", "{}", *SHORT, "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 0
    assert found["calls"] > 10
    assert found["failed"] == 0
    assert found["calls_per_second"] == pytest.approx(found["calls"] / found["seconds"], rel=0.02)
    latency = found["latency"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"]


def test_a_bench_without_a_response_has_exit_code_1_and_lists_the_errors(capsys):
    code, out, _ = run("bench", "-c", "mixed.yaml", "gone", *SHORT, capsys=capsys)
    assert code == 1
    assert "(100%)" in out
    assert "CIRCUIT_1401" in out


@pytest.mark.parametrize(
    "wrong", [("--seconds", "0"), ("--concurrency", "0"), ("--warmup", "-1"), ("--seconds", "nan")]
)
def test_invalid_bench_options_have_exit_code_2(wrong, capsys):
    assert run("bench", "-c", "plugins.yaml", "greet", *wrong, capsys=capsys)[0] == 2


# --- as processes ----------------------------------------------------------------------------------------------------


def test_a_call_from_a_shell(folder):
    command = [sys.executable, "-m", "goplugins", "call", "-c", "plugins.yaml", "greet", "-"]
    done = subprocess.run(command, input='{"name": "shell"}', capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello shell" in done.stdout


@pytest.mark.parametrize(("warmup", "code"), [("0", 0), ("60", 1)])
def test_ctrl_c_ends_a_bench_early_and_prints_its_results(folder, warmup, code):
    bench = ("bench", "-c", "plugins.yaml", "greet", "{}", "--seconds", "60", "--warmup", warmup)
    command = [sys.executable, "-m", "goplugins", *bench]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while len(REQUESTS) < 100 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err  # 1 during the warm-up, in which no call counts
    assert "answers/s" in out

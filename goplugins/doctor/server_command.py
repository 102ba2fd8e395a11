"""Workers and limits on a server's command line, which is parsed, not run."""

from __future__ import annotations

import argparse
import ast
import configparser
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import attrs

from goplugins.doctor.host import Host, gunicorn_host, uwsgi_host
from goplugins.errors import ConfigFileError, InvalidArgumentError


def host_of(command: Sequence[str], environ: Mapping[str, str]) -> Host:
    """The server that a command line such as ``gunicorn --workers 4 app:app`` would start; a nameless one if unknown.

    Args:
        command: program and arguments; ``python -m`` and paths before the program's name are ignored.
        environ: the environment of the command.

    Raises:
        InvalidArgumentError: a known option has an invalid value.
        ConfigFileError: a configuration file that it names can't be read.
    """
    words = list(command)
    while words:
        name = os.path.basename(words.pop(0))
        if name in _READERS:
            return _READERS[name](words, environ)
    return Host()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidArgumentError(f"{self.prog}: {message}")


def _parser(name: str) -> _Parser:
    return _Parser(prog=name, add_help=False, allow_abbrev=False)


# --- gunicorn ------------------------------------------------------------------------------------------------------


def _gunicorn(words: Sequence[str], environ: Mapping[str, str]) -> Host:
    parser = _parser("gunicorn")
    parser.add_argument("-c", "--config", default="./gunicorn.conf.py")
    parser.add_argument("-w", "--workers", type=int)
    parser.add_argument("-t", "--timeout", type=float)
    parser.add_argument("-k", "--worker-class")
    parser.add_argument("--threads", type=int)
    found, _ = parser.parse_known_args([*shlex.split(environ.get("GUNICORN_CMD_ARGS", "")), *words])
    given = {name: value for name, value in vars(found).items() if value is not None}
    settings = {
        "workers": int(environ["WEB_CONCURRENCY"]) if environ.get("WEB_CONCURRENCY", "").isdigit() else 1,
        "timeout": 30.0,
        "worker_class": "sync",
        "threads": 1,
        **_assignments(found.config.removeprefix("file:")),
        **given,
    }
    kind, workers, timeout = settings["worker_class"], settings["workers"], settings["timeout"]
    if kind == "sync" and settings["threads"] != 1:
        kind = "gthread"
    return gunicorn_host(
        kind if isinstance(kind, str) else "",
        workers if isinstance(workers, int) else None,
        timeout if isinstance(timeout, int | float) else 0,
    )


def _assignments(name: str) -> dict[str, object]:
    """The assignments of a configuration in Python; None for values other than literals, since its code is not run."""
    path = Path(name)
    if not path.is_file():
        if name == "./gunicorn.conf.py" or name.startswith("python:"):
            return {}
        raise ConfigFileError(f"there is no file {name}", path=name)
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as exc:
        raise ConfigFileError(f"can't be read: {exc}", path=name) from exc
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = _literal(node.value)
    return found


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


# --- uWSGI ---------------------------------------------------------------------------------------------------------

_SHORT = {"p": "processes", "T": "enable-threads", "M": "master", "t": "harakiri"}
_SWITCHES = frozenset(
    ("enable-threads", "master", "lazy", "lazy-apps", "py-call-uwsgi-fork-hooks", "py-call-osafterfork", "need-app")
)


def _uwsgi(words: Sequence[str], environ: Mapping[str, str]) -> Host:
    prefix = "UWSGI_"
    options = {
        name.removeprefix(prefix).lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith(prefix)
    }
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, _, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            if word.endswith(".ini"):
                options |= _ini(word)
            continue
        if not word.startswith("--") and len(name) > 1:  # -p4
            name, value = name[0], name[1:]
        name = _SHORT.get(name, name) if not word.startswith("--") else name
        if name in _SWITCHES:
            value = value or "true"
        elif not value and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        if name == "ini":
            options |= _ini(value)
        else:
            options[name] = value
    return uwsgi_host(options)


def _ini(name: str) -> dict[str, str]:
    path, _, section = name.partition(":")
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, delimiters=("=",))
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8"))
        found = dict(parser.items(section or "uwsgi"))
    except (OSError, ValueError, configparser.Error) as exc:
        raise ConfigFileError(f"can't be read: {exc}", path=path) from exc
    return {key: "true" if value is None else value for key, value in found.items()}


# --- Celery --------------------------------------------------------------------------------------------------------


def _celery(words: Sequence[str], environ: Mapping[str, str]) -> Host:
    parser = _parser("celery")
    parser.add_argument("-c", "--concurrency", type=int)
    parser.add_argument("-P", "--pool", default="prefork")
    parser.add_argument("--time-limit", type=float)
    parser.add_argument("--soft-time-limit", type=float)
    found, rest = parser.parse_known_args(words)
    if "worker" not in rest:
        return Host()
    limits = [each for each in (found.soft_time_limit, found.time_limit) if each]
    one_process = found.pool not in {"prefork", "processes"}
    return attrs.evolve(
        Host("celery", 1 if one_process else found.concurrency, min(limits, default=None), "Celery's time limit"),
        gevent=found.pool == "gevent",
        eventlet=found.pool == "eventlet",
    )


_READERS = {"gunicorn": _gunicorn, "uwsgi": _uwsgi, "celery": _celery}

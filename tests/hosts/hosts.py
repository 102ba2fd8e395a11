"""The application servers: start, reload and stop of each."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import attrs

from tests.hosts.processes import descendants
from tests.hosts.servers import ROOT
from tests.servers import free_port
from tests.timing import until

__all__ = [
    "FIRST_CALLS",
    "HOSTS",
    "Celery",
    "CeleryPlugins",
    "DjangoPrefork",
    "FlaskPreload",
    "Gevent",
    "Host",
    "Job",
    "Outcome",
]


@attrs.frozen
class Job:
    """One call for the application to make."""

    plugin: str
    number: str
    seconds: float = 0.0
    refuse: bool = False
    timeout: float = 10.0


@attrs.frozen
class Outcome:
    """Outcome of a call as the application reported it; ``lost`` is set if no reply came."""

    job: Job
    pid: int = 0
    error: str = ""
    seconds: float = 0.0
    lost: str = ""


_PROBLEM = re.compile(
    r"Traceback|Error\b|Exception ignored|SIG(SEGV|ABRT|KILL|BUS)|signal (6|9|11)\b|TIMEOUT|WorkerLost|lost!|plugin '"
)


_SETTLED = 2.5
"""Seconds: a gevent worker compares its number of calls once a second, and a new one needs a second to start."""


class Host:
    """A server and its workers, with a configuration in a folder of its own."""

    name: ClassVar[str] = "?"
    imports: ClassVar[bool] = False
    """Whether the application is imported, and makes calls, before the workers are forked."""
    packages: ClassVar[tuple[str, ...]] = ()
    programs: ClassVar[tuple[str, ...]] = ()
    """Python packages and programs that it needs."""
    hung: ClassVar[float] = 20.0
    """Seconds after which a call with a timeout of 10 s counts as hung."""
    may_lose: ClassVar[int] = 0
    """Requests that the server may lose in a test before they reach the application."""
    may_call_grpc: ClassVar[bool] = True
    """Whether gRPC plugins can be called before the workers are forked."""

    def __init__(self, folder: Path, plugins: list[dict[str, Any]]) -> None:
        self.folder = folder
        settings = {
            # A retry would hide failures.
            "default_retry": {"max_retries": 0},
            "default_health_check": {"interval": 1},
            "plugins": plugins,
        }
        (folder / "config.json").write_text(json.dumps(settings))
        self.log = folder / "log"
        self.first: tuple[str, float] | None = None  # the only plugin called at import, and seconds until its end
        self._process: subprocess.Popen[bytes] | None = None
        self._before: set[int] = set()

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {"HOSTS_FOLDER": str(self.folder), "HOSTS_IMPORT_CALLS": "2" if self.imports else "0"}

    @property
    def pid(self) -> int:
        """Process id of the master."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._before = descendants(os.getpid())
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **self.environment()}
        if self.first is not None:
            environment |= {"HOSTS_FIRST": self.first[0], "HOSTS_DELAY": str(self.first[1])}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            return self.answers()

        until(ready, 30, "the host answers")

    def processes(self) -> set[int]:
        """All its processes, orphans included."""
        return descendants(os.getpid()) - self._before

    def reload(self) -> None:
        """Makes the server replace its workers while calls are in flight."""
        os.kill(self.pid, signal.SIGHUP)

    def stop(self) -> int:
        """Stops the server as an operator does; returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def kill(self) -> None:
        """Kills all processes that are left."""
        if self._process is not None:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def problems(self, since: int) -> list[str]:
        """Lines of its log after byte ``since`` that report a problem; a late call ends its program, which is none."""
        lines = self.log.read_bytes()[since:].decode(errors="replace").splitlines()
        return [line for line in lines if _PROBLEM.search(line) and "process runs" not in line]

    def answers(self) -> bool:
        raise NotImplementedError

    def get(self, path: str, **headers: str) -> Any:
        """Reply of one worker."""
        raise NotImplementedError

    def run(self, jobs: Sequence[Job], halfway: Callable[[], None] = lambda: None) -> list[Outcome]:
        """Makes all calls, several at a time; ``halfway`` is called after half of them."""
        raise NotImplementedError


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Web(Host):
    clients = 8
    application = "tests.hosts.wsgi:application"

    @property
    def socket(self) -> str:
        return str(self.folder / "web.sock")

    def stop(self) -> int:
        """Stops the server once no process has started or ended for a while.

        While a worker is being replaced, both servers may wait at their stop for a worker that got no signal: uWSGI
        2.0.30 without end, also with an empty application right after a reload (4 of 69 stops); gunicorn for its
        graceful timeout, with this application under load.
        """
        found, since = self.processes(), time.monotonic()

        def settled() -> bool:
            nonlocal found, since
            now, processes = time.monotonic(), self.processes()
            if processes != found:
                found, since = processes, now
            return now - since > _SETTLED

        until(settled, 30, "no worker starts or ends")
        return super().stop()

    def answers(self) -> bool:
        try:
            return bool(self.get("/ping"))
        except OSError:
            return False

    def get(self, path: str, **headers: str) -> Any:
        connection = _Connection(self.socket, self.hung)
        try:
            # One connection per request: a stopping server closes idle connections, which races with the next request.
            connection.request("GET", path, headers={**headers, "Connection": "close"})
            reply = connection.getresponse()
            body = reply.read()
        finally:
            connection.close()
        assert reply.status == 200, f"{reply.status}: {body[:500]!r}"
        return json.loads(body)

    def run(self, jobs: Sequence[Job], halfway: Callable[[], None] = lambda: None) -> list[Outcome]:
        outcomes: list[Outcome] = []
        waiting = iter(jobs)
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    job = next(waiting, None)
                if job is None:
                    return
                outcomes.append(self._make(job))
                if len(outcomes) == len(jobs) // 2:
                    halfway()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    def _make(self, job: Job) -> Outcome:
        query = {"seconds": job.seconds, "timeout": job.timeout, **({"refuse": 1} if job.refuse else {})}
        try:
            reply = self.get(f"/call/{job.plugin}/{job.number}?{urlencode(query)}")
        except (OSError, http.client.HTTPException, AssertionError) as error:
            return Outcome(job, lost=repr(error))
        return Outcome(job, reply["pid"], reply["error"], reply["seconds"])


class Gunicorn(_Web):
    arguments: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ("gunicorn",)

    def command(self) -> list[str]:
        recycling = ["--max-requests", "150", "--max-requests-jitter", "30"]
        common = [
            "--bind",
            f"unix:{self.socket}",
            "--workers",
            "2",
            "--graceful-timeout",
            "20",
            "--no-control-socket",
        ]
        return [sys.executable, "-m", "gunicorn", *common, *recycling, *self.arguments, self.application]


class Sync(Gunicorn):
    name = "gunicorn-sync"
    arguments: ClassVar[tuple[str, ...]] = ("--worker-class", "sync")


class Threaded(Gunicorn):
    name = "gunicorn-gthread"
    arguments: ClassVar[tuple[str, ...]] = ("--worker-class", "gthread", "--threads", "4")


class SyncPreload(Sync):
    name = "gunicorn-sync-preload"
    imports = True
    arguments: ClassVar[tuple[str, ...]] = (*Sync.arguments, "--preload")


class ThreadedPreload(Threaded):
    name = "gunicorn-gthread-preload"
    imports = True
    arguments: ClassVar[tuple[str, ...]] = (*Threaded.arguments, "--preload")


class Gevent(Gunicorn):
    name = "gunicorn-gevent"
    packages = ("gunicorn", "gevent")
    arguments: ClassVar[tuple[str, ...]] = ("--worker-class", "gevent")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "HOSTS_GEVENT": "1"}


class GeventPreload(Gevent):
    """The application is imported before gevent patches the standard library: gRPC's calls then block."""

    name = "gunicorn-gevent-preload"
    imports = True
    arguments: ClassVar[tuple[str, ...]] = (*Gevent.arguments, "--preload")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "HOSTS_GEVENT": ""}


class UWSGI(_Web):
    arguments: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ("pyuwsgi",)
    # At a reload a worker of a single thread ends at once if it has no request, and a request begins some instructions
    # after its connection was accepted (2.0.30: gracefully_kill in core/uwsgi.c, wsgi_req_recv in core/utils.c).
    may_lose = 1

    def command(self) -> list[str]:
        common = ["--master", "--die-on-term", "--need-app", "--http-socket", self.socket, "--processes", "2"]
        code = ["--virtualenv", sys.prefix, "--chdir", str(ROOT), "--module", self.application]
        # By default no worker is recycled in its first minute.
        recycling = ["--max-requests", "150", "--min-worker-lifetime", "1", "--disable-logging"]
        # A worker that gets the signal while it loads ignores it; by default uWSGI then waits for a minute.
        recycling += ["--worker-reload-mercy", "8"]
        return [_script("uwsgi"), *common, *code, *recycling, *self.arguments]

    def environment(self) -> dict[str, str]:
        # On HUP the wheel's uWSGI runs the Python that the environment was made from, without its packages.
        path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
        return {**super().environment(), "PYTHONPATH": path}


class UWSGIThreads(UWSGI):
    name = "uwsgi-threads"
    arguments: ClassVar[tuple[str, ...]] = ("--lazy-apps", "--enable-threads", "--threads", "4")


class UWSGIPrefork(UWSGI):
    name = "uwsgi-prefork"
    imports = True
    arguments: ClassVar[tuple[str, ...]] = ("--enable-threads", "--py-call-uwsgi-fork-hooks")


class UWSGIDefault(UWSGI):
    """No hook of Python runs in its workers: gRPC can't be used in them if it was called at import."""

    name = "uwsgi-default"
    imports = True
    may_call_grpc = False


class UWSGIDefaultThreads(UWSGIDefault):
    name = "uwsgi-default-threads"
    arguments: ClassVar[tuple[str, ...]] = ("--enable-threads", "--threads", "4")


class FlaskPreload(ThreadedPreload):
    name = "flask"
    packages = ("gunicorn", "flask")
    application = "tests.hosts.flask_app:app"


class DjangoPrefork(UWSGIPrefork):
    name = "django"
    packages = ("pyuwsgi", "django")
    application = "tests.hosts.django_app:application"


class Celery(Host):
    name = "celery-prefork"
    imports = True
    packages = ("celery", "redis")
    programs = ("redis-server",)
    tasks = "tests.hosts.tasks"
    pool: ClassVar[str] = "prefork"
    window = 16
    # On HUP under load a pool process waits for 30 s, because its parent no longer reads its results.
    hung = 60.0

    def __init__(self, folder: Path, plugins: list[dict[str, Any]]) -> None:
        super().__init__(folder, plugins)
        self._redis: Redis | None = None

    @functools.cached_property
    def _client(self) -> Any:
        import celery

        return celery.Celery("client", broker=self.url, backend=self.url)

    @property
    def url(self) -> str:
        assert self._redis is not None
        return self._redis.url

    def start(self) -> None:
        self._redis = Redis(self.folder)
        super().start()

    def kill(self) -> None:
        super().kill()
        if self._redis is not None:
            self._client.close()
            self._redis.close()

    def command(self) -> list[str]:
        options = ["--pool", self.pool, "--concurrency", "2", "--max-tasks-per-child", "400", "--loglevel", "WARNING"]
        quiet = ["--without-gossip", "--without-mingle"]
        # As a script: on HUP Celery executes its own command line again, which fails for ``-m celery``.
        return [sys.executable, _script("celery"), "-A", self.tasks, "worker", *options, *quiet]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "HOSTS_REDIS": self.url}

    def answers(self) -> bool:
        return bool(self._client.control.ping(timeout=0.2))

    def send(self, task: str, *arguments: Any) -> Any:
        """Sends a task; returns its asynchronous result."""
        return self._client.send_task(f"{self.tasks}.{task}", arguments)

    def get(self, path: str, **headers: str) -> Any:
        return self.send(path.strip("/")).get(timeout=self.hung)

    def run(self, jobs: Sequence[Job], halfway: Callable[[], None] = lambda: None) -> list[Outcome]:
        outcomes: list[Outcome] = []
        pending: list[tuple[Job, Any]] = []
        for number, job in enumerate(jobs):
            pending.append((job, self.send("call", *attrs.astuple(job))))
            if number == len(jobs) // 2:
                halfway()
            if len(pending) >= self.window:
                outcomes.append(self._collect(*pending.pop(0)))
        return outcomes + [self._collect(*pair) for pair in pending]

    def _collect(self, job: Job, result: Any) -> Outcome:
        try:
            reply = result.get(timeout=self.hung)
        except Exception as error:
            return Outcome(job, lost=repr(error))
        return Outcome(job, reply["pid"], reply["error"], reply["seconds"])


class CeleryEventlet(Celery):
    name = "celery-eventlet"
    imports = False
    packages = ("celery", "redis", "eventlet")
    pool = "eventlet"


class CeleryPlugins(Celery):
    name = "celery-plugins"
    tasks = "tests.hosts.plugin_tasks"


class Redis:
    """A Redis server on a free port, without persistence."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{port}/0"

        def listens() -> bool:
            assert self._process.poll() is None, "redis-server does not start"
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        until(listens, 10, "Redis listens")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


HOSTS: tuple[type[Host], ...] = (
    Sync,
    Threaded,
    SyncPreload,
    ThreadedPreload,
    Gevent,
    UWSGIThreads,
    UWSGIPrefork,
    Celery,
    FlaskPreload,
    DjangoPrefork,
    CeleryPlugins,
)

FIRST_CALLS: tuple[type[Host], ...] = (
    Sync,
    Threaded,
    SyncPreload,
    ThreadedPreload,
    Gevent,
    GeventPreload,
    UWSGIThreads,
    UWSGIDefault,
    UWSGIDefaultThreads,
    UWSGIPrefork,
    Celery,
    CeleryEventlet,
)
"""Those of ``test_first_calls.py``."""

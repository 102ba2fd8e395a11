"""Whether this process is a server's master, which loads the application and forks the workers that serve requests.

Threads of a master are of no use: they are not copied into the workers, and a fork beside them is a risk.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

_serving: dict[int, bool] = {}  # process -> True, once it was found to be no master


def in_master() -> bool:
    """True in the master of uWSGI, and in that of gunicorn while it loads the application (``--preload``)."""
    pid = os.getpid()
    if pid in _serving:
        return False
    if _is_uwsgi_master(sys.modules.get("uwsgi"), pid) or _is_gunicorn_master():
        return True
    _serving.clear()
    _serving[pid] = True
    return False


def _is_uwsgi_master(uwsgi: Any, pid: int) -> bool:
    """The module exists within uWSGI only. Mules and spoolers are no workers either, but processes of their own."""
    if not hasattr(uwsgi, "masterpid") or uwsgi.worker_id():  # a stand-in of the application's tests has less
        return False
    master = uwsgi.masterpid()
    return bool(master == pid or (not master and uwsgi.numproc > 1))  # without a master, the first worker forks others


def _is_gunicorn_master() -> bool:
    """By the main thread's stack: a worker runs within the function that has forked it."""
    if "gunicorn.arbiter" not in sys.modules:
        return False
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    functions = set()
    while frame is not None:
        if frame.f_globals.get("__name__") == "gunicorn.arbiter":
            functions.add(frame.f_code.co_name)
        frame = frame.f_back
    return bool(functions) and "spawn_worker" not in functions

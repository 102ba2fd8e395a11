"""Runs a script and prints how it ended, as JSON: ``runner.py SECONDS SCRIPT WHERE``.

The script calls ``last()`` in its last line, from which its end is timed. This process becomes the parent of processes
that the script leaves behind (PR_SET_CHILD_SUBREAPER).
"""

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

_SUBREAPER = 36


def main() -> None:
    patience, code, where = float(sys.argv[1]), sys.argv[2], sys.argv[3]
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    command = [sys.executable, "-W", "error", "-c", code, where]
    script = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Not communicate(): what the script leaves behind may hold its pipes.
    last = 0.0
    reports = []
    for line in script.stdout:
        if line.startswith("last "):
            last = float(line.split()[1])
            break
        reports.append(json.loads(line))
    try:
        status = script.wait(patience)
    except subprocess.TimeoutExpired:
        script.kill()
        status = "hung" if script.wait() else ""
    ended = time.monotonic()
    left = None
    while time.monotonic() < ended + patience:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            left = time.monotonic() - ended
            break
    os.set_blocking(script.stderr.fileno(), False)
    result = {
        "status": status,
        "took": ended - last if last else None,
        "left": left,
        "reports": reports,
        "stderr": script.stderr.read() or "",
    }
    print(json.dumps(result))
    if left is None:
        for pid in pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


main()

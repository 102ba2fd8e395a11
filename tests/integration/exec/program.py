"""A plugin process that does what the request says. Stands alone, so that it starts fast."""

import json
import os
import signal
import subprocess
import sys
import threading
import time


def reply(request, data=None, **fields):
    answer = {"type": request["type"], "request_id": request["request_id"], "success": True, "data": data, **fields}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def chatter(count, mark):
    """Writes to stdout a moment after the reply, and creates a file when all is written."""
    time.sleep(0.1)
    for _ in range(count // 1000):
        os.write(1, b"progress\n" * 100 + b"x" * 100)
    open(mark, "w").close()


def do(request):
    data = request["data"]
    what = data.get("do") if isinstance(data, dict) else None
    if what == "pid":
        return os.getpid()
    if what == "env":
        return dict(os.environ)
    if what == "cwd":
        return os.getcwd()
    if what == "argv":
        return sys.argv[1:]
    if what == "fds":
        return sorted(int(name) for name in os.listdir("/proc/self/fd"))
    if what == "exit":
        os._exit(data["status"])
    if what == "kill":
        os.kill(os.getpid(), data["signal"])
    if what == "sleep":
        time.sleep(data["seconds"])
    if what == "raw":
        os.write(1, data["text"].encode())
        return None
    if what == "half":
        os.write(1, data["text"].encode())
        os._exit(0)
    if what == "flood":
        while True:
            os.write(1, b"garbage " * 1000)
    if what == "late":
        reply(request, "ok")
        os.write(1, data["text"].encode())
        raise StopIteration
    if what == "chatter":
        threading.Thread(target=chatter, args=(data["bytes"], data["mark"])).start()
    if what == "die with the thread that started me":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        return os.getpid()
    if what == "stop reading":
        reply(request, os.getpid())
        os.close(0)
        time.sleep(1)
        os._exit(0)
    if what == "stderr":
        block = data["text"].encode() * (1 + (1 << 16) // len(data["text"]))
        for _ in range(data["bytes"] // len(block) + 1):
            os.write(2, block)
    if what == "say":
        os.write(2, data["text"].encode())
    if what == "child":
        child = subprocess.Popen(["sleep", "60"])
        return [os.getpid(), child.pid]
    if what == "stubborn":
        stubborn()
        return os.getpid()
    if what == "open":
        return [open(os.devnull) for _ in range(data["count"])] and "opened"
    if what == "allocate":
        return len(bytearray(data["bytes"]))
    if what == "spin":
        while True:
            pass
    return data


def main():
    if "--stubborn" in sys.argv:
        stubborn()
    for flag in sys.argv:
        if flag.startswith("--starts="):
            with open(flag.removeprefix("--starts="), "a") as file:
                file.write(f"{os.getpid()}\n")
        if flag.startswith("--slow="):
            time.sleep(float(flag.removeprefix("--slow=")))
    if "--exit" in sys.argv:
        sys.stderr.write("I can't start\n")
        sys.exit(3)
    if "--stray" in sys.argv:
        print('{"type":"execute","request_id":"another","success":true,"data":"stray"}', flush=True)
    if "--banner" in sys.argv:
        print("welcome", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(request, do(request))
        except StopIteration:
            pass
        except Exception as exc:
            reply(request, None, success=False, error=str(exc), error_kind="rejected")
    while "--stubborn" in sys.argv or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        time.sleep(60)


if __name__ == "__main__":
    main()

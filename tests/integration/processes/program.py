"""A plugin on stdin and stdout without goplugins, which starts in milliseconds. ``--deaf`` ignores the end of stdin."""

import json
import os
import signal
import sys
import time

if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

for line in sys.stdin:
    message = json.loads(line)
    data = message.get("data")
    seconds = data.get("seconds", 0) if isinstance(data, dict) else 0
    if seconds:
        time.sleep(seconds)
    reply = {
        "type": message["type"],
        "request_id": message["request_id"],
        "success": True,
        "data": {"status": "healthy"} if message["type"] == "health" else {"request": data, "pid": os.getpid()},
    }
    print(json.dumps(reply), flush=True)

if "--deaf" in sys.argv:
    time.sleep(60)

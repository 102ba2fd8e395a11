"""A plugin on stdin and stdout that starts fast: it needs nothing of goplugins."""

import json
import sys


def main():
    for line in sys.stdin:
        asked = json.loads(line)
        data = asked.get("data") if asked["type"] == "execute" else {"status": "healthy"}
        answer = {"type": asked["type"], "request_id": asked["request_id"], "success": True, "data": data}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

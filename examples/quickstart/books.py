"""A REST service without goplugins. To start it: python books.py --http 127.0.0.1:8000"""

import json
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TITLES = ["Emma", "Persuasion", "Middlemarch", "Silas Marner", "Villette", "Shirley", "Cranford"]
BOOKS = [{"id": number, "title": title} for number, title in enumerate(TITLES, 1)]
PAGE = 3
requests: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        requests[url.path] += 1
        if url.path == "/books/5" and requests[url.path] <= 2:
            self.reply(503, {"message": "the shelf is being moved"}, {"Retry-After": "0.1"})
        elif url.path == "/books":
            start = int(parse_qs(url.query).get("after", ["0"])[0])
            following = start + PAGE if start + PAGE < len(BOOKS) else None
            self.reply(200, {"items": BOOKS[start : start + PAGE], "next": following})
        elif found := [book for book in BOOKS if url.path == f"/books/{book['id']}"]:
            self.reply(200, found[0])
        else:
            self.reply(404, {"title": "Not found", "detail": f"no {url.path}"})

    def do_POST(self) -> None:
        book = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not book["title"]:
            self.reply(422, {"title": "Invalid book", "detail": "the title is empty"})
        else:
            self.reply(201, {"id": len(BOOKS) + 1, **book})

    def reply(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        kind = "application/json" if status < 400 else "application/problem+json"
        for name, text in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


if __name__ == "__main__":
    host, _, port = sys.argv[-1].rpartition(":")
    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        print(f"listening on http://{host}:{server.server_port}", flush=True)
        server.serve_forever()

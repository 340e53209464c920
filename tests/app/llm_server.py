"""A server that speaks OpenAI's dialect and counts what it serves; its answers are a function of the question."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Counting:
    """What was asked and served."""

    def __init__(self, answer: Callable[[dict[str, Any]], str]) -> None:
        self.answer = answer
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.tokens = 0
        self.url = ""


@contextmanager
def serving(answer: Callable[[dict[str, Any]], str]) -> Iterator[Counting]:
    state = Counting(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = state.answer(body)
            usage = {"prompt_tokens": sum(len(m["content"]) for m in body["messages"]) // 4, "completion_tokens": len(text) // 4 + 1}
            with state.lock:
                state.bodies.append(body)
                state.keys.add(self.headers.get("authorization", ""))
                state.tokens += sum(usage.values())
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for i in range(0, len(text), 50):
                self._say({"choices": [{"index": 0, "delta": {"content": text[i : i + 50]}}]})
            self._say({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self._say({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def _say(self, data: Any) -> None:
            self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

        def log_message(self, *args: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

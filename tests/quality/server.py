"""An OpenAI-compatible server on loopback that answers, or misbehaves in the ways that servers do."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

AGAIN = {"retry-after": "0.05", "location": "http://localhost:9/v1"}
KEY = "sk-loopback-secret-0123456789"


class Server(ThreadingHTTPServer):
    """Answers `echo <last word>`; `faults` maps a word of the prompt to what goes wrong, how often (-1: always)."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, delay_s: float = 0.0, key: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.delay_s, self.key = delay_s, key
        self.faults: dict[str, tuple[str, int]] = {}
        self.asked: Counter[str] = Counter()
        self.reply: Callable[[str], str] | None = None  # what to say to a prompt, instead of its echo
        self.times: list[float] = []  # of requests, from first byte to last
        self.first_s = self.last_s = 0.0
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is nothing to print."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body leave together: else the system holds the body back for 40 ms
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_POST(self) -> None:
        begun = time.monotonic()
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        word = body["messages"][-1]["content"].split()[-1]
        with self.server.lock:
            self.server.asked[word] += 1
            self.server.bodies.append(body)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            fault, times = self.server.faults.get(word, ("", 0))
            fault = fault if times < 0 or self.server.asked[word] <= times else ""
        try:
            self.answer(word, fault, body["messages"][-1]["content"])
        finally:
            with self.server.lock:
                self.server.at_once -= 1
                self.server.last_s = time.monotonic()
                self.server.first_s = self.server.first_s or begun
                self.server.times.append(self.server.last_s - begun)

    def answer(self, word: str, fault: str, prompt: str) -> None:
        if self.server.key and self.headers["authorization"] != f"Bearer {self.server.key}":
            return self.send(401, {"error": {"message": f"bad key {self.headers['authorization']}"}})
        time.sleep(5.0 if fault == "slow" else self.server.delay_s)
        if fault in ("429", "500", "400", "404", "307"):
            return self.send(int(fault), {"error": {"message": f"fault {fault}"}}, AGAIN)
        if fault == "cut":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
            return None
        if fault == "malformed":
            return self.send(200, b'{"choices": [{"message": {"content": "x"')
        if fault == "endless":
            return self.endless()
        if fault == "other":
            return self.send(200, {"hello": "world"})
        if fault == "surrogate":
            return self.send(200, b'{"choices": [{"message": {"content": "half \\ud83d"}}]}')
        said = self.server.reply(prompt) if self.server.reply else f"echo {word}"
        message = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return self.send(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})

    def endless(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        except OSError:
            self.close_connection = True

    def send(self, code: int, document: Any, headers: dict[str, str] | None = None) -> None:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(code)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

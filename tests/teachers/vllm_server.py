"""A server on a local socket that answers `/v1/completions` as vLLM does, from a tiny model, and that can be told to fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from distill.models import load_model, load_tokenizer

Fault = Callable[[BaseHTTPRequestHandler], bool]
"""Answers in its own way and returns True, or changes nothing and returns False."""


@dataclass(kw_only=True)
class Server:
    """url: up to /v1. faults: consumed in order, one a request. change: what it does to every answer. limit: --max-logprobs."""

    url: str = ""
    key: str | None = None
    limit: int = 64
    faults: list[Fault] = field(default_factory=list)
    change: Callable[[dict[str, Any]], None] = lambda answer: None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    open_now: int = 0
    open_most: int = 0
    pause: float = 0.0


@contextmanager
def serving(folder: str, **settings: Any) -> Iterator[Server]:
    """A server of the model in `folder` for as long as the context lasts."""
    model, tokenizer = load_model(folder, dtype="float32"), load_tokenizer(folder)
    server, lock = Server(**settings), threading.Lock()

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        ids, k = body["prompt"], body["prompt_logprobs"]
        with torch.inference_mode():
            log_probs_TV = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(1)
        positions: list[dict[str, Any] | None] = [None]
        for place, id in enumerate(ids[1:]):
            row = log_probs_TV[place]
            order = row.argsort(descending=True)
            chosen = dict.fromkeys([id, *order[:k].tolist()])  # the prompt's own token first, as vLLM has it
            positions.append(
                {
                    str(one): {
                        "logprob": float(row[one]),
                        "rank": int((row > row[one]).sum()) + 1,
                        "decoded_token": tokenizer.decode([one]),
                    }
                    for one in chosen
                }
            )
        made = {"object": "text_completion", "choices": [{"index": 0, "text": " a", "prompt_logprobs": positions}]}
        server.change(made)
        return made

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.bodies.append(body)
                server.at.append(time.monotonic())
                server.open_now += 1
                server.open_most = max(server.open_most, server.open_now)
                fault = server.faults.pop(0) if server.faults else None
            time.sleep(server.pause)
            with lock:
                server.open_now -= 1  # before it is answered: a client that has its answer may ask again at once
            if fault is not None and fault(self):
                return
            if server.key is not None and self.headers.get("Authorization") != f"Bearer {server.key}":
                send(self, 401, {"error": {"message": f"invalid key {self.headers.get('Authorization')}"}})
            elif self.path != "/v1/completions":
                send(self, 404, {"error": {"message": "no such path"}})
            elif body["prompt_logprobs"] > server.limit:
                asked = body["prompt_logprobs"]
                message = f"Requested prompt logprobs of {asked}, which is greater than max allowed: {server.limit}"
                send(self, 400, {"error": {"message": message}})
            else:
                with lock:
                    found = answer(body)
                send(self, 200, found)

    http = Listening(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class Listening(ThreadingHTTPServer):
    """Has room for everyone who calls at once: of the five that socketserver keeps waiting, on a busy machine one more is not
    refused but silently dropped, and calls again after one second, then three, then seven.
    """

    daemon_threads = True
    request_queue_size = 512


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


# Faults


def status(code: int, **headers: str) -> Fault:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        send(handler, code, {"error": {"message": "not now"}}, **headers)
        return True

    return fault


def slow(seconds: float) -> Fault:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def truncated(handler: BaseHTTPRequestHandler) -> bool:
    """Half of the JSON that the header promises, whole as far as HTTP goes."""
    content = b'{"choices": [{"prompt_log'
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
    return True


def cut_off(handler: BaseHTTPRequestHandler) -> bool:
    """The connection ends in the middle of the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True
    return True


def dropped(handler: BaseHTTPRequestHandler) -> bool:
    """No answer at all."""
    handler.close_connection = True
    return True

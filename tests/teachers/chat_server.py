"""A server on a local socket that speaks chat completions, and batches of them, from a toy model, and that can be told to fail.

The toy model is a distribution over words that depends on the messages and the words before: the same seed says the same, and
every log-probability can be checked. `drops` are parameters that it ignores in silence, `refuses` those that it answers with 400.
Batches are done at the first look.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from vllm_server import Fault, Listening, cut_off, dropped, send, slow, status, truncated

__all__ = ["Fault", "Server", "another_model", "cut_off", "dropped", "fewer", "send", "serving", "slow", "status", "truncated"]

WORDS = (
    "Paris",
    " is",
    " the",
    " red",
    " blue",
    " seven",
    ".",
    " house",
    " Oslo",
    " I",
    " know",
    " not",
    " sea",
    " of",
    " oak",
    " tin",
)
END = "<end>"
_FLAGS = {"continue_final_message", "add_generation_prompt"}


@dataclass(kw_only=True)
class Server:
    """url: up to /v1. faults: consumed in order, one for each completion asked; `fails` decides by the body instead.

    thinks, lonely_seed (one random state for all requests), scaled (log-probabilities after temperature), continues ("flags",
    "itself" or nothing): ways in which servers differ. expires: questions that a batch has
    no time for. change: what it does to every answer.
    """

    url: str = ""
    key: str | None = None
    models: tuple[str, ...] = ("toy",)
    answers_as: str | None = None
    drops: frozenset[str] = frozenset()
    refuses: frozenset[str] = frozenset()
    most_top_logprobs: int = 20
    continues: str | None = "flags"
    thinks: bool = False
    lonely_seed: bool = False
    scaled: bool = False
    constant: bool = False
    counts: bool = True
    pause: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    fails: Callable[[dict[str, Any]], Fault | None] = lambda body: None
    change: Callable[[dict[str, Any]], None] = lambda answer: None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    gone: bool = False
    open_now: int = 0
    open_most: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    expires: set[str] = field(default_factory=set)
    fails_batches: str = ""
    state: random.Random = field(default_factory=lambda: random.Random(0))

    def start(self) -> Listening:
        """Listen on a free port until the returned server is shut down, or the process ends."""
        http = Listening(("127.0.0.1", 0), _handler(self, threading.Lock()))
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        return http

    def asked(self, text: str) -> list[dict[str, Any]]:
        """The bodies that came with a message of that text."""
        return [body for body in self.bodies if any(text == message["content"] for message in body["messages"])]


@contextmanager
def serving(**settings: Any) -> Iterator[Server]:
    """A server for as long as the context lasts."""
    server = Server(**settings)
    http = server.start()
    try:
        yield server
    finally:
        server.gone = True
        http.shutdown()
        http.server_close()


# The toy model


def log_probs(context: str) -> dict[str, float]:
    """The distribution over the next word (nats): the same context, the same numbers."""
    logits = {}
    for word in (*WORDS, END):
        drawn = int.from_bytes(hashlib.sha256(f"{context}|{word}".encode()).digest()[:4], "big") / 2**32
        logits[word] = 3 * drawn - (1.5 if word == END else 0)
    total = math.log(sum(map(math.exp, logits.values())))
    return {word: value - total for word, value in logits.items()}


def _scaled(values: Mapping[str, float], temperature: float) -> dict[str, float]:
    if not temperature:
        best = max(values, key=lambda word: values[word])
        return {word: 0.0 if word == best else -math.inf for word in values}
    total = math.log(sum(math.exp(value / temperature) for value in values.values()))
    return {word: value / temperature - total for word, value in values.items()}


def _complete(server: Server, body: Mapping[str, Any], place: int, context: str) -> dict[str, Any]:
    seed = body.get("seed")
    if server.lonely_seed:
        draw = server.state
        time.sleep(0.003)
    else:
        draw = random.Random(f"{seed}/{place}") if seed is not None else random.Random()
    temperature = 0.0 if server.constant else body.get("temperature", 1.0)
    text, listed, finish = "", [], "length"
    if "response_format" in body:
        text, finish = '{"ok": true}', "stop"
    for _ in range(body["max_tokens"] if "response_format" not in body else 0):
        raw = log_probs(context + text)
        values = _scaled(raw, temperature)
        ranked = sorted(values, key=lambda word: -values[word])
        allowed = ranked[: body["top_k"]] if body.get("top_k", 0) > 0 else ranked
        word = draw.choices(allowed, [math.exp(values[one]) for one in allowed])[0]
        shown = _scaled(raw, temperature or 1) if server.scaled else raw
        order = sorted(shown, key=lambda one: -shown[one])[: body.get("top_logprobs", 0)]
        listed.append(
            {
                "token": word if word != END else "",
                "logprob": shown[word],
                "top_logprobs": [{"token": one if one != END else "", "logprob": shown[one]} for one in order],
            }
        )
        if word == END:
            finish = "stop"
            break
        text += word
        places = [found for one in body.get("stop", ()) if (found := text.find(one)) >= 0]
        if places:
            text, finish = text[: min(places)], "stop"
            break
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if server.thinks:
        message |= {"content": None, "reasoning_content": text}
    choice = {"index": place, "message": message, "finish_reason": finish, "count": len(listed)}
    return {**choice, "logprobs": {"content": listed}} if body.get("logprobs") else choice


def _answer(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in body.items() if name not in server.drops}
    messages = known["messages"]
    goes_on = messages[-1]["role"] == "assistant" and bool(
        server.continues == "itself" or (server.continues == "flags" and known.get("continue_final_message"))
    )
    context = "".join(f"<{message['role']}>{message['content']}" for message in messages)
    if not goes_on:
        context += "</end><assistant>"
    if server.lonely_seed and "seed" in known:
        server.state.seed(known["seed"])
        time.sleep(0.01)
    choices = [_complete(server, known, place, context) for place in range(known.get("n", 1))]
    words = sum(len(message["content"].split()) for message in messages) + 5 * (len(messages) - goes_on) + 2
    answer: dict[str, Any] = {
        "object": "chat.completion",
        "model": server.answers_as or body["model"],
        "choices": choices,
        "usage": {"prompt_tokens": words, "completion_tokens": sum(choice.pop("count") for choice in choices)},
    }
    if "prompt_logprobs" in known:
        answer["prompt_logprobs"] = [None, {"1": {"logprob": -1.0}}]
    if not server.counts:
        del answer["usage"]
    server.change(answer)
    return answer


# HTTP


def _handler(server: Server, lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else header and body, sent apart, wait 40 ms for each other

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            if server.gone:
                self.close_connection = True
                return
            if not self.known_key():
                return
            name = self.path.removeprefix("/v1/")
            if name == "models":
                send(self, 200, {"object": "list", "data": [{"id": one, "object": "model"} for one in server.models]})
            elif name.partition("?")[0] == "batches":
                send(self, 200, {"object": "list", "data": list(server.batches.values())})
            elif name.startswith("batches/") and name[8:] in server.batches:
                _work_off(server, server.batches[name[8:]])
                send(self, 200, server.batches[name[8:]])
            elif found := re.fullmatch(r"files/([\w-]+)/content", name):
                content = server.files[found[1]]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            else:
                send(self, 404, {"error": {"message": "no such path"}})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if server.gone:  # a connection that was kept open
                self.close_connection = True
                return None
            if not self.known_key():
                return None
            if self.path == "/v1/files":
                boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
                part = next(one for one in content.split(b"--" + boundary) if b"filename=" in one)
                name = f"file-{len(server.files)}"
                server.files[name] = part.partition(b"\r\n\r\n")[2].rstrip(b"\r\n")
                return send(
                    self, 200, {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
                )
            body = json.loads(content)
            if self.path == "/v1/batches":
                name = f"batch-{len(server.batches)}"
                server.batches[name] = {"id": name, "object": "batch", "status": "in_progress", "created_at": 1, **body}
                return send(self, 200, server.batches[name])
            if self.path != "/v1/chat/completions":
                return send(self, 404, {"error": {"message": "no such path"}})
            with lock:
                server.bodies.append(body)
                server.at.append(time.monotonic())
                server.open_now += 1
                server.open_most = max(server.open_most, server.open_now)
                fault = server.faults.pop(0) if server.faults else server.fails(body)
            try:
                time.sleep(server.pause)
                if fault is None or not fault(self):
                    send(self, *_judged(server, body))
            finally:
                with lock:
                    server.open_now -= 1
            return None

        def known_key(self) -> bool:
            given = self.headers.get("Authorization")
            server.keys.append(given)
            if server.key is None or given == f"Bearer {server.key}":
                return True
            send(self, 401, {"error": {"message": f"Incorrect API key provided: {given}", "code": "invalid_api_key"}})
            return False

    return Handler


def _judged(server: Server, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    refused = sorted(server.refuses.intersection(body))
    if body["model"] not in server.models:
        return 404, {"error": {"message": f"The model `{body['model']}` does not exist", "code": "model_not_found"}}
    if refused:
        advice = "; use 'max_completion_tokens' instead" if "max_tokens" in refused else ""
        return 400, {"error": {"message": f"Unsupported parameter: {refused[0]!r}{advice}", "code": "unsupported_parameter"}}
    if body.get("top_logprobs", 0) > server.most_top_logprobs:
        return 400, {"error": {"message": f"top_logprobs must be at most {server.most_top_logprobs}"}}
    body = {**body, "max_tokens": body.get("max_tokens", body.get("max_completion_tokens"))}
    if sum(len(message["content"]) for message in body["messages"]) > 2000:
        return 400, {"error": {"message": "This model's maximum context length is 2000 characters. However, you sent more"}}
    return 200, _answer(server, body)


def _work_off(server: Server, batch: dict[str, Any]) -> None:
    """Do a batch at once, when it is first looked at: results in one file, refusals in another, as the hosted ones have it."""
    if batch["status"] != "in_progress":
        return
    if server.fails_batches:
        batch |= {"status": "failed", "errors": {"data": [{"message": server.fails_batches}]}}
        return
    done, failed = [], []
    for line in server.files[batch["input_file_id"]].decode().splitlines():
        request = json.loads(line)
        if request["body"]["messages"][-1]["content"] in server.expires:
            late = {"code": "batch_expired", "message": "too late"}
            failed.append(json.dumps({"id": "x", "custom_id": request["custom_id"], "response": None, "error": late}))
            continue
        fault = server.fails(request["body"])
        code, body = (500, {"error": {"message": "broken"}}) if fault is not None else _judged(server, request["body"])
        answer = {"id": "x", "custom_id": request["custom_id"], "response": {"status_code": code, "body": body}, "error": None}
        (done if code == 200 else failed).append(json.dumps(answer))
    batch["status"] = "expired" if server.expires else "completed"
    for name, lines in (("output_file_id", done), ("error_file_id", failed)):
        if lines:
            server.files[f"{batch['id']}-{name}"] = "\n".join(reversed(lines)).encode()  # in no order
            batch[name] = f"{batch['id']}-{name}"


# Faults beyond those of vllm_server


def another_model(handler: BaseHTTPRequestHandler) -> bool:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    send(handler, 200, {"model": "impostor", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    return True


def fewer(handler: BaseHTTPRequestHandler) -> bool:
    send(handler, 200, {"model": "toy", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}})
    return True

"""Where a server is and how it may be asked: a mistake in it is told before anything is sent, and never repeats a key."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distill.errors import ConfigError
from distill.teachers.base import Price

if TYPE_CHECKING:
    from distill.teachers.server import ServerTeacher

_OURS = {"model", "messages", "n", "seed", "temperature", "top_p", "top_k", "stop", "logprobs", "top_logprobs", "stream"}
_OURS |= {"max_tokens", "max_completion_tokens"}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is and how to ask it. The key itself is read when the line is opened, and kept nowhere else."""

    base_url: str | None
    api_key_env: str
    timeout: float
    max_retries: int
    give_up_after: int
    concurrency: int
    requests_per_minute: float
    tokens_per_minute: float
    price: Price | None


def check_settings(teacher: ServerTeacher) -> None:
    problems = {
        f"concurrency is {teacher.concurrency}; expected at least 1": teacher.concurrency < 1,
        f"timeout is {teacher.timeout}; expected seconds above 0": not teacher.timeout > 0,
        f"max_retries is {teacher.max_retries}; expected at least 0": teacher.max_retries < 0,
        f"give_up_after is {teacher.give_up_after}; expected at least 1": teacher.give_up_after < 1,
        "requests_per_minute and tokens_per_minute are 0 (no limit) or more": min(
            teacher.requests_per_minute, teacher.tokens_per_minute
        )
        < 0,
        "model is empty; give its name on the server": not teacher.model,
    }
    found = [problem for problem, wrong in problems.items() if wrong]
    ours = sorted(_OURS.intersection(teacher.extra_body))
    if ours:
        found.append(f"extra_body holds {', '.join(ours)}, which distill sets itself (from model and sampling)")
    try:
        json.dumps(dict(teacher.extra_body))
    except (TypeError, ValueError) as error:
        found.append(f"extra_body is no JSON ({error})")
    if found:
        raise ConfigError(f"ServerTeacher: {'; '.join(found)}")


def check_address(base_url: str | None, api_key_env: str) -> None:
    address = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"base_url {address.rpartition('@')[2].partition('?')[0]!r} is no server's address; expected something like "
            "http://localhost:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        raise ConfigError("base_url holds a key or password; put the key into a variable and name that by api_key_env")
    if api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api_key_env):
        # Not repeated: it may well be the key.
        raise ConfigError("api_key_env is no name of an environment variable; the key itself belongs into the variable, not here")
    if api_key_env and not os.environ.get(api_key_env) and not _is_local(parts.hostname):
        raise ConfigError(
            f"the environment variable {api_key_env} is not set; put the key for {parts.hostname} into it, name another by "
            'api_key_env, or, for a server without keys, give api_key_env ""'
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

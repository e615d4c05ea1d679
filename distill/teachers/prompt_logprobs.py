"""A teacher behind a vLLM-compatible server: its top-k log-probabilities of given tokens (`prompt_logprobs`).

The server is sent token ids and answers, for every position, with its most probable tokens and the one that is there. It must be
of the student's tokenizer. Standard library only: a thread for each open request, one connection for each request.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import ConfigError, TeacherError
from distill.teachers.signal_source import SignalSource, StoreDtype, supervised
from distill.teachers.signal_store import SequenceSignal, StoredKind, id_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from distill.rows import SupervisedTokens

# The numbers of the model itself: older servers apply these, from the model's own generation_config, to the prompt as well.
_PLAIN = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_PROBE_TEXT = "The capital of France is Paris, and the capital of Kenya is Nairobi."
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may pass
_IMPOSSIBLE = -9999.0  # what vLLM writes for -inf, which JSON does not have
_LONGEST_WAIT = 300.0  # seconds
_ROUNDING = 2.0**-24  # a mass that float32 sums to 1 cannot tell from 0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another server."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class PromptLogprobs(SignalSource):
    """A model of a vLLM-compatible server (`vllm serve MODEL --max-logprobs 64`).

    url: up to and with /v1. model: as the server names it. student: whose tokenizer renders the records; the server's must be the
    same, which the first request checks. kind: "top_k", or "token" for the log-probabilities of the records' own tokens.
    key_variable: name of the environment variable with the API key; the key is sent to the server and kept nowhere. concurrency:
    requests open at once. retries: of one request, after 429, 5xx, a timeout or a broken answer, each after a longer pause or
    the one that the server asks for. timeout: seconds of one try.

    Raises ConfigError for an address that is none; TeacherError where the server cannot do it, or does not answer.
    """

    url: str
    model: str
    student: str
    kind: StoredKind = "top_k"
    k: int = 64
    store_dtype: StoreDtype = "float16"
    key_variable: str | None = None
    concurrency: int = 8
    retries: int = 8
    timeout: float = 120.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"{parts.hostname or self.url!r} is no server's address; expected something like http://host:8000/v1"
            )
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "the server's address holds a key or password; put the key in a variable and name it: --api_key_env"
            )
        if self.kind not in ("top_k", "token"):
            raise ConfigError(
                f"--kind {self.kind}: a server gives top_k or token; exact and sampled need the teacher's weights here"
            )
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            raise ConfigError(f"the environment variable {self.key_variable} is not set; put the server's API key in it")

    @cached_property
    def _tokenizer(self) -> Any:
        from distill.models import load_tokenizer

        return load_tokenizer(self.student)

    @cached_property
    def vocabulary(self) -> int:  # type: ignore[override]
        """The ids of the student's tokenizer; what the server says of others counts to the rest."""
        return int(max(self._tokenizer.get_vocab().values())) + 1

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        return urllib.request.build_opener(_NoRedirect)

    @cached_property
    def _stopped(self) -> threading.Event:
        return threading.Event()

    @cached_property
    def _wanted(self) -> int:
        return min(self.k, self.vocabulary) if self.kind == "top_k" else 1

    def identity(self) -> Mapping[str, Any]:
        """The name that the server gives the model: a server does not say which weights it has."""
        return {"teacher": "prompt_logprobs", "model": self.model}

    def probe(self) -> None:
        """One short request. Raises TeacherError where the server drops what is asked for, or has another tokenizer."""
        ids = self._tokenizer(_PROBE_TEXT, add_special_tokens=False)["input_ids"]
        positions = self._ask(ids, "the probe")
        for id, position in zip(ids[1:], positions[1:], strict=True):
            theirs = position[str(id)].get("decoded_token")
            own = self._tokenizer.decode([id])
            if theirs is not None and own.isascii() and theirs.strip() != own.strip():
                raise TeacherError(
                    f"model {self.model!r} of the server has another tokenizer than student {self.student!r}: token {id} is "
                    f"{theirs!r} to it and {own!r} here; take a teacher with the student's tokenizer"
                )

    def __call__(self, examples: Sequence[SupervisedTokens]) -> list[SequenceSignal]:
        """One request for each record, `concurrency` at a time."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            waiting = [pool.submit(self._signal, example) for example in examples]
            try:
                return [one.result() for one in waiting]
            except BaseException:  # Ctrl-C too: no further request is begun, and no pause is waited for
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _signal(self, example: SupervisedTokens) -> SequenceSignal:
        import torch

        token_T, index_P = supervised(example)
        positions = self._ask(token_T.tolist(), f"record {example.record_id!r}")
        if self.kind == "token":
            own = [positions[at][str(token_T[at])]["logprob"] for at in index_P.tolist()]
            values = {"log_prob": torch.tensor(own, dtype=torch.float32)}
        else:
            values = self._top_k([positions[at] for at in index_P.tolist()])
        return SequenceSignal(record_id=example.record_id, token_T=token_T, index_P=index_P, values=values)

    def _top_k(self, positions: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The k most probable of each position; the prompt's own token is not kept where it is none of them."""
        import torch

        from distill.teachers.stored import padded

        k, ids, log_probs = self._wanted, [], []
        real_PK = torch.zeros(len(positions), k, dtype=torch.bool)
        for place, position in enumerate(positions):
            known = sorted((-entry["logprob"], int(id)) for id, entry in position.items() if int(id) < self.vocabulary)[:k]
            real_PK[place, : len(known)] = True
            ids += [id for _, id in known]
            log_probs += [-negated for negated, _ in known]
        log_probs_PK = torch.full(real_PK.shape, -math.inf, dtype=torch.float64)
        log_probs_PK[real_PK] = torch.tensor(log_probs, dtype=torch.float64)
        log_probs_PK[log_probs_PK <= _IMPOSSIBLE] = -math.inf
        return {
            "ids": padded(torch.tensor(ids, dtype=torch.int64), real_PK).to(id_dtype(self.vocabulary)),
            "log_probs": log_probs_PK.to(getattr(torch, self.store_dtype)),
            "rest": torch.from_numpy(log_rest(log_probs_PK.numpy(), self.vocabulary)).float(),
        }

    # Requests

    def _ask(self, ids: Sequence[int], what: str) -> list[dict[str, Any]]:
        """The positions' answers, one for each id; the first is empty, for nothing precedes it."""
        body = {"model": self.model, "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": self._wanted, **_PLAIN}
        return self._retried(lambda: self._checked(self._post(body), ids, what), what)

    def _retried(self, do: Callable[[], Any], what: str) -> Any:
        for attempt in range(self.retries + 1):
            try:
                return do()
            except urllib.error.HTTPError as error:
                said, wait = self._said(error), _asked_wait(error.headers.get("Retry-After"))
                if error.code not in _AGAIN:
                    raise TeacherError(self._refusal(error.code, said, what)) from None
                trouble = f"HTTP {error.code}{f': {said}' if said else ''}"
            # A dropped connection, a timeout, an answer that ends in the middle.
            except (OSError, http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError) as error:
                trouble, wait = f"{type(error).__name__}: {error}", None
            if attempt < self.retries and not self._stopped.is_set():
                # Half of it random: requests that failed together do not come back together.
                backoff = min(0.5 * 2**attempt, 30.0) * random.uniform(0.5, 1.0)
                self._stopped.wait(backoff if wait is None else min(wait, _LONGEST_WAIT))
        raise TeacherError(
            f"{what}: the server at {self._host} failed {self.retries + 1} times, the last time with "
            f"{self._without_key(trouble)}. Finished files are kept: run the same command again, with fewer requests at once "
            f"(--concurrency) if the server is overloaded"
        )

    def _post(self, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/completions", data=json.dumps(body).encode(), headers=headers, method="POST"
        )
        with self._opener.open(request, timeout=self.timeout) as answer:
            return json.loads(answer.read())

    def _checked(self, answer: Any, ids: Sequence[int], what: str) -> list[dict[str, Any]]:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        found = choices[0].get("prompt_logprobs") if choices and isinstance(choices[0], dict) else None
        if found is None:
            raise TeacherError(
                f"{what}: the server at {self._host} answers without prompt_logprobs; it drops them (transformers serve) or "
                f"cannot score a prompt (llama-server). Use vLLM: vllm serve MODEL --max-logprobs {self._wanted}"
            )
        if len(found) != len(ids):
            raise TeacherError(f"{what}: {len(ids)} tokens were sent and {len(found)} scored; the server changed the prompt")
        try:
            positions = [position or {} for position in found]
            self._check_positions(positions, ids, what)
        except (KeyError, TypeError, AttributeError) as error:
            raise TeacherError(
                f"{what}: the server at {self._host} gave prompt_logprobs that are not vLLM's ({error!r})"
            ) from None
        return positions

    def _check_positions(self, positions: Sequence[Mapping[str, Any]], ids: Sequence[int], what: str) -> None:
        for place, (id, position) in enumerate(zip(ids, positions, strict=True)):
            if place and str(id) not in position:
                raise TeacherError(
                    f"{what}: the server read another token than the {id} sent as token {place}; it changed the prompt"
                )
            values = np.array([entry["logprob"] for entry in position.values()], dtype=np.float64)
            if len(position) < (self._wanted if place else 0) or (values > 1e-3).any() or np.exp(values).sum() > 1.01:
                raise TeacherError(
                    f"{what}: at token {place} the server gave {len(position)} numbers, exp of which sums to "
                    f"{np.exp(values).sum():.4g}; expected at least {self._wanted} log-probabilities. Start vLLM with "
                    f"--logprobs-mode raw_logprobs (its default)"
                )

    def _refusal(self, code: int, said: str, what: str) -> str:
        remedy = {
            401: f"put the right API key into the variable named by --api_key_env (now {self.key_variable})",
            403: f"put the right API key into the variable named by --api_key_env (now {self.key_variable})",
            404: "check --teacher (it ends in /v1) and --teacher_model (the server lists its models at /v1/models)",
        }.get(
            code,
            f"if it limits log-probabilities, start it with --max-logprobs {self._wanted} or give a smaller --k; if the record "
            f"is too long, give --max_tokens",
        )
        return f"{what}: the server at {self._host} refused it with HTTP {code}{f': {said}' if said else ''}; {remedy}"

    def _said(self, error: urllib.error.HTTPError) -> str:
        try:
            text = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""
        return self._without_key(" ".join(text.split())[:300])

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.key_variable) if self.key_variable is not None else None
        return text.replace(key, "***") if key else text

    @property
    def _host(self) -> str:
        return urllib.parse.urlsplit(self.url).netloc


def log_rest(log_probs_PK: NDArray[np.float64], vocabulary: int) -> NDArray[np.float64]:
    """log(1 - sum of the k probabilities), of a vocabulary of that many tokens; -inf where the k are all of them.

    A server's float32 numbers may sum to 1 or more where the rest is small. It is then between what such a sum cannot tell from
    0 and what the rest can be at most, each token of it being no more probable than the least of the k.

    >>> log_rest(np.log([[0.5, 0.25]]), 4).round(3).tolist(), log_rest(np.log([[0.5, 0.5]]), 2).tolist()
    ([-1.386], [-inf])
    """
    k = log_probs_PK.shape[1]
    if k == vocabulary:
        return np.full(len(log_probs_PK), -np.inf)
    mass_P = np.exp(log_probs_PK).sum(1)
    rest_P = np.log1p(-np.minimum(mass_P, 1 - _ROUNDING))
    finite_PK = np.where(np.isfinite(log_probs_PK), log_probs_PK, np.inf)
    least_P = finite_PK.min(1) + math.log(vocabulary - k)
    return np.where(mass_P >= 1 - _ROUNDING * k, np.minimum(rest_P, least_P), rest_P)


def _asked_wait(value: str | None) -> float | None:
    """Seconds, from a Retry-After header: a number, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return None

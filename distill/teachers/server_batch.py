"""Requests as a hosted batch file: cheaper than one by one, answered within a day, submitted once whatever happens here.

The folder holds two small files for each batch, named by a hash of its requests: what was submitted, and the answers. A process
that was killed anywhere in between finds its batch again, if need be in the server's own list.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import TeacherError
from distill.teachers.server_link import Link, Refused, Unanswered

MOST = 50_000  # requests in one file
FIRST_LOOK, LONGEST_LOOK = 2.0, 60.0  # seconds between two looks at a batch; the pause grows by half each time
_OVER = {"completed", "expired", "cancelled", "failed"}
_MARK = "distill"  # in a batch's metadata

Answer = Mapping[str, Any] | Unanswered | Refused


class Batches:
    """Answers requests by batch files. To be used on the line's event loop."""

    def __init__(self, link: Link, folder: Path) -> None:
        self._link, self._folder = link, folder

    async def answers(self, bodies: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """An answer for each chat completion asked for, in order; Refused or Unanswered where it has none.

        Raises TeacherError where the server does not take the file.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = [bodies[start : start + MOST] for start in range(0, len(bodies), MOST)]
        return [answer for part in parts for answer in await self._part(part)]

    async def _part(self, bodies: Sequence[Mapping[str, Any]]) -> list[Answer]:
        content = "".join(_lines(bodies))
        name = hashlib.sha256(f"{self._link.where}\n{content}".encode()).hexdigest()[:32]
        results = self._folder / f"{name}.results.jsonl"
        before = results.exists()
        if not before:
            _write(results, await self._results(name, content))
        # Counted with every reading: who reads them a second time was stopped before anybody kept what they cost.
        self._count([results.read_text(encoding="utf-8")])
        found = self._read(results, bodies)
        if not before:
            return found
        # An earlier process was told of those that the server never came to: asked again, they are another, smaller file.
        late = [place for place, answer in enumerate(found) if isinstance(answer, Unanswered)]
        if len(late) == len(bodies):
            results.unlink()
            (self._folder / f"{name}.json").unlink()
            return await self._part(bodies)
        if late:
            again = await self._part([bodies[place] for place in late])
            for place, answer in zip(late, again, strict=True):
                found[place] = answer
        return found

    async def _results(self, name: str, content: str) -> str:
        """The lines that the server wrote about a file of requests."""
        state = self._folder / f"{name}.json"
        known = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
        batch = known.get("batch") or (await self._submitted(name) if known else None)
        if batch is None:
            # The file first: from here on a killed process has left word that it may have submitted.
            file = known.get("file") or await self._link.upload(f"{name}.jsonl", content.encode())
            _write(state, json.dumps({"server": self._link.where, "file": file}))
            batch = await self._submit(name, file)
        _write(state, json.dumps({"server": self._link.where, "batch": batch}))
        status = await self._wait(batch)
        if status["status"] == "failed":
            state.unlink()  # nothing of it was done
            said = [str(one.get("message")) for one in (status.get("errors") or {}).get("data") or ()][:3]
            raise TeacherError(
                f"the server at {self._link.where} refused the batch {batch}: {'; '.join(said) or 'no reason given'}"
            )
        texts = [
            await self._link.fetch(f"/files/{status[key]}/content")
            for key in ("output_file_id", "error_file_id")
            if status.get(key)
        ]
        return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)

    async def _submit(self, name: str, file: str) -> str:
        body = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {_MARK: name},
        }
        for attempt in range(1 + self._link.address.max_retries):
            try:
                # One attempt: an answer that was lost on the way may well have been a submission.
                return await self._link.ask("/batches", body, lambda reply: str(reply["id"]), retries=0)
            except Refused as error:
                raise TeacherError(
                    f"the server at {self._link.where} takes no batches: {error}; leave batch_folder out"
                ) from None
            except Unanswered as error:
                last = error
                await asyncio.sleep(min(FIRST_LOOK * 2**attempt, LONGEST_LOOK))
                if (batch := await self._submitted(name)) is not None:
                    return batch
        raise TeacherError(f"the server at {self._link.where} did not take a batch ({last.detail}); run the same command again")

    async def _submitted(self, name: str) -> str | None:
        """The batch of these requests, if the server has it: its word, where the answer to a submission was lost."""

        def find(reply: Mapping[str, Any]) -> str | None:
            for batch in reply.get("data") or ():
                if (batch.get("metadata") or {}).get(_MARK) == name and batch.get("status") != "failed":
                    return str(batch["id"])
            return None

        return await self._link.ask("/batches?limit=100", None, find)

    async def _wait(self, batch: str) -> Mapping[str, Any]:
        pause = FIRST_LOOK
        while True:
            status = await self._link.ask(f"/batches/{batch}", None, dict)
            if status.get("status") in _OVER:
                return status
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LONGEST_LOOK)

    def _count(self, texts: Sequence[str]) -> None:
        for line in _json_lines(texts):
            body = (line.get("response") or {}).get("body")
            if isinstance(body, Mapping):
                self._link.account(body, 0)

    def _read(self, results: Path, bodies: Sequence[Mapping[str, Any]]) -> list[Answer]:
        lines = {line.get("custom_id"): line for line in _json_lines([results.read_text(encoding="utf-8")])}
        return [self._answer(lines.get(_custom_id(place, body))) for place, body in enumerate(bodies)]

    def _answer(self, line: Mapping[str, Any] | None) -> Answer:
        if line is None:
            return Unanswered("not done in the batch's time", "no line about it in the batch's results")
        response, error = line.get("response") or {}, line.get("error") or {}
        if error.get("code") == "batch_expired":
            return Unanswered("not done in the batch's time", "the batch expired")
        code, body = int(response.get("status_code") or 0), response.get("body")
        if code == 200 and isinstance(body, Mapping):
            return body
        said = self._link.said(body if isinstance(body, Mapping) else error)
        return Refused(code, said) if code in (400, 403, 413, 422) else Unanswered(f"HTTP {code}" if code else "error", said)


def _lines(bodies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for place, body in enumerate(bodies):
        request = {"custom_id": _custom_id(place, body), "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(request, ensure_ascii=False) + "\n"


def _custom_id(place: int, body: Mapping[str, Any]) -> str:
    """Of its place too: the same request may be asked twice."""
    return f"{place}-{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]}"


def _json_lines(texts: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for text in texts:
        for line in text.split("\n"):  # not splitlines: a text may hold other line separators
            if line.strip():
                yield json.loads(line)


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and on the disk before anything else happens."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

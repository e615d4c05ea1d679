"""A teacher that answers from a file of recorded completions: the same answers again, without the model that wrote them.

One JSON object a line: `prompt` (a list of messages), `completions` (a list of objects with `text`, and where known `tokens`,
`finish` and `log_prob`), and where known `sampling`, the settings that they were drawn with. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from distill.errors import TeacherError
from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling

# Which samples of a prompt are asked for changes none of them.
_COUNTS = ("n", "skip")


@dataclass(frozen=True, kw_only=True)
class ReplayTeacher(Generator):
    """Recorded completions, found by prompt and, where the file says how they were drawn, by the same sampling settings.

    path: a file written by `record`, or by hand. Only an index of it is held in memory.
    """

    path: str

    def identity(self) -> Mapping[str, Any]:
        """The file's content; where it lies does not matter."""
        with self._open() as file:
            return {"teacher": "replay", "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """The recorded completions `skip` to `skip + n` of each prompt.

        Raises TeacherError for a prompt that was not recorded, was recorded under other settings only, or has fewer completions.
        """
        with self._open() as file:
            return [self._completions(file, prompt, sampling) for prompt in prompts]

    def _completions(self, file: Any, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        asked = _settings(asdict(sampling))
        places = self._places.get(_key([asdict(message) for message in prompt]), ())
        shown = prompt[-1].content[:80] if prompt else ""
        others = []
        for number, offset in places:
            file.seek(offset)
            line = json.loads(file.readline())
            drawn = line.get("sampling")
            if drawn is not None and _settings(drawn) != asked:
                others.append(_difference(_settings(drawn), asked))
                continue
            start = sampling.skip - (drawn or {}).get("skip", 0)
            found = line["completions"][max(start, 0) : max(start, 0) + sampling.n]
            if start < 0 or len(found) < sampling.n:
                raise TeacherError(
                    f"{self.path}:{number}: the prompt {shown!r} has {len(line['completions'])} recorded completions; asked were "
                    f"{sampling.n} from number {sampling.skip} on; ask for fewer or record more"
                )
            return [_completion(one, f"{self.path}:{number}") for one in found]
        if others:
            raise TeacherError(
                f"{self.path}: the prompt {shown!r} was recorded with other settings ({'; '.join(others)}); ask with those, or "
                "record again"
            )
        raise TeacherError(f"{self.path}: the prompt {shown!r} was not recorded ({len(self._places)} others were); record it too")

    @cached_property
    def _places(self) -> dict[bytes, list[tuple[int, int]]]:
        """For each prompt its lines: number and byte offset."""
        places: dict[bytes, list[tuple[int, int]]] = {}
        offset = 0
        with self._open() as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    places.setdefault(_key(_line(raw, f"{self.path}:{number}")["prompt"]), []).append((number, offset))
                offset += len(raw)
        return places

    def _open(self) -> Any:
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise TeacherError(f"the recorded completions {self.path!r} cannot be read: {error.strerror}") from error


def record(
    generator: Generator, prompts: Iterable[Prompt], sampling: Sampling, path: str | os.PathLike[str], *, chunk: int = 256
) -> int:
    """Write what a generator answers to a file that ReplayTeacher reads; the number of prompts written.

    The file appears when it is complete. Memory holds `chunk` prompts at a time.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    written = 0
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            for some in _chunks(prompts, chunk):
                for prompt, completions in zip(some, generator.generate(some, sampling), strict=True):
                    line = {
                        "prompt": [asdict(message) for message in prompt],
                        "sampling": asdict(sampling),
                        "completions": [asdict(completion) for completion in completions],
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    written += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return written


def _chunks(prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    remaining = iter(prompts)
    while some := list(islice(remaining, size)):
        yield some


def _line(raw: bytes, where: str) -> dict[str, Any]:
    try:
        line = json.loads(raw.decode("utf-8-sig"))
    except ValueError as error:
        raise TeacherError(f"{where}: not a line of JSON in UTF-8 ({error}); was the file cut off?") from error
    if not isinstance(line, dict) or not isinstance(line.get("prompt"), list) or not isinstance(line.get("completions"), list):
        raise TeacherError(f"{where}: expected an object with lists `prompt` and `completions`")
    return line


def _completion(found: Any, where: str) -> Completion:
    known = {field.name for field in fields(Completion)}
    if not isinstance(found, dict) or not isinstance(found.get("text"), str) or not set(found) <= known:
        raise TeacherError(
            f"{where}: {json.dumps(found)[:80]} is not a completion; expected `text` and any of {sorted(known - {'text'})}"
        )
    # Completions written by hand need no more than their text; 0 tokens says that nobody counted.
    return Completion(**{"tokens": 0, "finish": "stop", **found})


def _key(messages: Sequence[Any]) -> bytes:
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).digest()


def _settings(sampling: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(sampling))
    return {name: value for name, value in plain.items() if name not in _COUNTS}


def _difference(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*recorded, *asked} if recorded.get(name) != asked.get(name))
    return ", ".join(f"{name} {recorded.get(name)!r}, asked {asked.get(name)!r}" for name in names)

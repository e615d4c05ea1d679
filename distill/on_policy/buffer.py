"""The replay buffer: what the student said in earlier epochs, bounded, oldest out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill.records import Record, record_from_json, record_to_json


@dataclass(frozen=True, kw_only=True)
class OwnResponse:
    """One marked response of the student. cut: it was cut off, so that its end is not to be learned."""

    record: Record
    cut: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"record": record_to_json(self.record), "cut": self.cut}

    @staticmethod
    def from_json(state: dict[str, Any]) -> OwnResponse:
        """What `to_json` gave."""
        return OwnResponse(record=record_from_json(state["record"]), cut=state["cut"])


class ReplayBuffer:
    """The latest responses of each group, at most `size` in all; when a group comes in, the groups that came in first go.

    >>> from distill.records import Message
    >>> say = lambda group: OwnResponse(record=Record(id=group, group=group, prompt=(Message(role="user", content="?"),),
    ...                                               response="!", polarity="positive"))
    >>> buffer = ReplayBuffer(size=2)
    >>> for group in ("a", "b", "c"):
    ...     buffer.add(group, [say(group)])
    >>> list(buffer)
    ['b', 'c']
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._groups: dict[str, tuple[OwnResponse, ...]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __getitem__(self, group: str) -> tuple[OwnResponse, ...]:
        return self._groups[group]

    def __contains__(self, group: object) -> bool:
        return group in self._groups

    def add(self, group: str, responses: Sequence[OwnResponse]) -> None:
        """Keep a group's new responses in the place of its earlier ones."""
        self._groups.pop(group, None)
        self._groups[group] = tuple(responses)
        while len(self) > self._size and len(self._groups) > 1:
            del self._groups[next(iter(self._groups))]

    def state_dict(self) -> list[list[Any]]:
        """Plain JSON types, in order of age."""
        return [[group, [one.to_json() for one in responses]] for group, responses in self._groups.items()]

    def load_state_dict(self, state: list[list[Any]]) -> None:
        """Go on from `state_dict`."""
        self._groups = {group: tuple(map(OwnResponse.from_json, responses)) for group, responses in state}

"""How a stage's results survive a crash: append-only JSON lines, cut back to the last whole batch, found again by digest."""

from __future__ import annotations

import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from distill.errors import RecipeError

_START = b'{"digest":"'  # every result line starts so: the index reads 32 characters of a line, not its JSON
_DIGEST = slice(len(_START), len(_START) + 32)


class Cache:
    """One append-only file. Its first line says what it was made from; every other line is one item's outcome.

    An empty line ends a batch, and a restart keeps whole batches only. A model's last digits depend on what shares its batch, so
    half a batch kept and half done again could differ from what an uninterrupted run would have drawn.

    An item done twice (lost, then tried again) has two lines and the later one counts. In memory: 16 bytes for each line that was
    there at the start.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.cut_bytes = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._digests, self._offsets = self._index()
        self._write: IO[bytes] = open(path, "ab")  # noqa: SIM115 (open as long as the stage runs)
        self._read: IO[bytes] = open(path, "rb")  # noqa: SIM115
        if self._write.tell() == 0:
            self.append([json.dumps(header, ensure_ascii=False, sort_keys=True)])

    def __len__(self) -> int:
        return len(self._digests)

    def get(self, digest: str) -> dict[str, Any] | None:
        """The outcome kept for this digest (`{"digest", "id", "result" or "lost"}`), or None."""
        row = bisect_right(self._digests, int(digest[:16], 16)) - 1
        if row < 0 or self._digests[row] != int(digest[:16], 16):
            return None
        self._read.seek(self._offsets[row])
        try:
            kept = json.loads(self._read.readline())
        except ValueError:  # damaged within a line (a failing disk): done again, and the new line counts from then on
            return None
        return kept if isinstance(kept, dict) and kept.get("digest") == digest else None

    def append(self, lines: Sequence[str]) -> None:
        """Add one batch and hand it to the operating system: from then on a killed process loses none of it."""
        self._write.write("".join(line + "\n" for line in [*lines, ""]).encode("utf-8", "surrogatepass"))
        self._write.flush()

    def close(self) -> None:
        """Force the file to disk; closing twice is allowed."""
        if self._write.closed:
            return
        self._write.flush()
        os.fsync(self._write.fileno())
        self._write.close()
        self._read.close()

    def _index(self) -> tuple[Sequence[int], Sequence[int]]:
        """Digests (first 64 bits, ascending) and the offset of each line; what follows the last whole batch is cut off."""
        import numpy as np

        digests, offsets, end = array("Q"), array("Q"), 0
        whole_bytes = whole_rows = 0
        if self.path.exists():
            with open(self.path, "rb+") as file:
                for line in file:
                    if line.startswith(_START):
                        try:
                            digests.append(int(line[_DIGEST][:16], 16))
                            offsets.append(end)
                        except ValueError:
                            pass  # a damaged line is nobody's: its item is done again
                    end += len(line)
                    if line == b"\n":
                        whole_bytes, whole_rows = end, len(offsets)
                file.truncate(whole_bytes)
        self.cut_bytes = end - whole_bytes
        del digests[whole_rows:], offsets[whole_rows:]
        order = np.argsort(
            np.asarray(digests, dtype=np.uint64), kind="stable"
        )  # stable: of two equal ones the later line is last
        return array("Q", np.asarray(digests, dtype=np.uint64)[order].tobytes()), array(
            "Q", np.asarray(offsets, dtype=np.uint64)[order].tobytes()
        )


def line_of(digest: str, item: str, outcome: str, value: Any) -> str:
    """One cache line; RecipeError where the value is not JSON."""
    try:
        text = json.dumps(
            {"digest": digest, "id": item, outcome: value}, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"item {item!r}: the result is not JSON ({error}); return dicts, lists, strings, finite numbers, booleans and None"
        ) from error
    return text


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a whole file or none of it: temporary file, fsync, os.replace."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

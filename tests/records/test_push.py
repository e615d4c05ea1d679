"""Records on the hub, against a hub of our own on a local socket: what is sent, what is refused, and that no token leaks."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from record_strategies import a_record

from distill.cli.records import records_command
from distill.errors import RecordError
from distill.records import write_records
from distill.records.push import push_records

TOKEN = "hf_notARealTokenButLongEnough"


class Hub(ThreadingHTTPServer):
    """As much of the hub as an upload needs: one data set, its files, and every request that came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None  # None: there is no repository yet
        self.refuse = 0
        self.asked: list[tuple[str, str, str]] = []
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._note()
        if "/tree/" in self.path:
            self._send(
                [{"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in self.server.files.items()]
            )
            return
        siblings = [{"rfilename": name} for name in self.server.files]
        self._send({"id": "me/records", "private": bool(self.server.private), "siblings": siblings, "sha": "0" * 40})

    def do_POST(self) -> None:
        self._note()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refuse:
            self._send({"error": "no"}, status=self.server.refuse)
        elif self.path.endswith("/repos/create"):
            if self.server.private is None:
                self.server.private = json.loads(body)["visibility"] == "private"
            self._send({"url": f"{self.server.endpoint}/datasets/me/records"})
        elif "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self._send({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.server.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
                elif part["key"] == "deletedFile":
                    del self.server.files[part["value"]["path"]]
            self._send({"commitUrl": f"{self.server.endpoint}/datasets/me/records/commit/{'1' * 40}", "commitOid": "1" * 40})
        else:
            self._send({})

    def _note(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization") or ""))

    def _send(self, content: Any, *, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on a local socket, where the real client looks for it."""
    import huggingface_hub.constants as constants

    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_records([a_record(n) for n in range(1, 8)], tmp_path / "records", rows_per_shard=3)
    (tmp_path / "records" / "notes.txt").write_text("mine alone")
    return tmp_path / "records"


def test_shards_manifest_and_card_go_up_in_one_commit_and_nothing_else(folder: Path, hub: Hub) -> None:
    pushed = push_records(folder, "me/records")
    names = [f"part-{n:05d}-of-00003.parquet" for n in range(3)]
    assert set(hub.files) == {*names, "manifest.json", "README.md"} == set(pushed.files)
    assert all(hub.files[name] == (folder / name).read_bytes() for name in hub.files)
    assert sum("/commit/" in path for _, path, _ in hub.asked) == 1
    assert pushed.rows == 7 and pushed.private and hub.private is True
    assert str(pushed) == f"7 records in 5 files, private: {hub.endpoint}/datasets/me/records"


def test_the_token_is_sent_to_the_hub_and_written_nowhere(folder: Path, hub: Hub, capsys: Any) -> None:
    assert records_command(["push", str(folder), "me/records"]) == 0
    assert {sent for _, path, sent in hub.asked if "/api/" in path} <= {f"Bearer {TOKEN}", ""}
    assert any(sent == f"Bearer {TOKEN}" for _, path, sent in hub.asked if "/commit/" in path)
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert not any(TOKEN.encode() in file.read_bytes() for file in folder.iterdir())
    assert not any(TOKEN.encode() in body for body in hub.files.values())


def test_old_shards_of_another_set_are_deleted_in_the_same_commit(folder: Path, hub: Hub) -> None:
    hub.private = True
    hub.files = {"part-00000-of-00001.parquet": b"old", "train.jsonl": b"old", "picture.png": b"kept"}
    push_records(folder, "me/records")
    assert "part-00000-of-00001.parquet" not in hub.files and "train.jsonl" not in hub.files
    assert hub.files["picture.png"] == b"kept"
    assert sum("/commit/" in path for _, path, _ in hub.asked) == 1


def test_a_public_repository_is_refused_unless_asked_for(folder: Path, hub: Hub) -> None:
    hub.private = False
    with pytest.raises(RecordError, match="is public.*--public"):
        push_records(folder, "me/records")
    assert not hub.files
    assert not push_records(folder, "me/records", public=True).private
    assert hub.files


def test_records_that_changed_since_they_were_written_stay_here(folder: Path, hub: Hub) -> None:
    shard = folder / "part-00001-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(RecordError, match="changed since it was written"):
        push_records(folder, "me/records")
    assert not hub.asked


def test_without_a_token_nothing_is_asked(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RecordError, match="environment variable HF_TOKEN is not set"):
        push_records(folder, "me/records")
    with pytest.raises(RecordError, match="environment variable OTHER"):
        push_records(folder, "me/records", token_env="OTHER")
    assert not hub.asked


def test_what_the_hub_refuses_is_one_line_with_a_remedy(folder: Path, hub: Hub) -> None:
    hub.private, hub.refuse = True, 403
    with pytest.raises(RecordError, match="me/records: the hub refused: .*403.*may the token write there"):
        push_records(folder, "me/records")
    with pytest.raises(RecordError, match="no name of a repository"):
        push_records(folder, "a b/c d")


def test_a_single_file_is_no_folder_to_push(tmp_path: Path, hub: Hub) -> None:
    write_records([a_record(1)], tmp_path / "one.jsonl")
    with pytest.raises(RecordError, match="is no folder.*convert"):
        push_records(tmp_path / "one.jsonl", "me/records")

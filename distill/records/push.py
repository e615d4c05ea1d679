"""A folder of records on the Hugging Face hub: shards, manifest and dataset card in one commit, private unless told otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.errors import RecordError
from distill.records.card import CARD_NAME, write_card
from distill.records.manifest import MANIFEST_NAME, verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Where the records are now, and how many."""

    address: str
    rows: int
    files: tuple[str, ...]
    private: bool

    def __str__(self) -> str:
        seen = "private" if self.private else "public"
        return f"{self.rows} records in {len(self.files)} files, {seen}: {self.address}"


def push_records(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    public: bool = False,
    token_env: str = "HF_TOKEN",
    message: str = "",
    api: HfApi | None = None,
) -> Pushed:
    """Upload a folder of records to a dataset repository, and make the repository where there is none.

    The shards are compared with their manifest first. Shards that are there already, of another set, are deleted in the same
    commit, so that the repository never mixes two. Only shards, manifest and card are sent, whatever else lies in the folder.

    repository: owner/name. public: whether a new one is public; without it, a repository that is public is refused.
    token_env: the environment variable that holds a token that may write. api: a client of the caller's own.

    Raises:
        RecordError: a folder that is not as its manifest says, no token, a public repository without `public`, or what the hub
            refused.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(
            f"{folder}: is no folder; write records into one (distill records convert FROM FOLDER), with its manifest"
        )
    manifest = verify(folder)
    if not (folder / CARD_NAME).is_file():
        write_card(folder, manifest)
    token = os.environ.get(token_env, "")
    if not token and api is None:
        raise RecordError(
            f"the environment variable {token_env} is not set; put a token with write access into it, or name another"
        )
    files = (*(shard.name for shard in manifest.shards), MANIFEST_NAME, CARD_NAME)
    api = HfApi(token=token) if api is None else api
    try:
        address = api.create_repo(repository, repo_type="dataset", private=not public, exist_ok=True)
        private = bool(api.repo_info(repository, repo_type="dataset").private)
        if not private and not public:
            raise RecordError(f"{address}: is public, and everyone would see the records; make it private, or give --public")
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(files),
            delete_patterns=["*.parquet", "*.jsonl"],
            commit_message=message or f"{manifest.rows} records{f' of {manifest.recipe}' if manifest.recipe else ''}",
        )
    except HFValidationError as error:
        raise RecordError(f"{repository}: no name of a repository ({error}); write owner/name") from error
    except HfHubHTTPError as error:
        raise RecordError(f"{repository}: the hub refused: {str(error).splitlines()[0]}; may the token write there?") from error
    return Pushed(address=str(address), rows=manifest.rows, files=files, private=private)

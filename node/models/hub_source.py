"""The hub: a repository `org/name` at one commit, through huggingface_hub's own client.

The client finds the commit, the files and what the hub says of them (HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE are its own settings and hold here too). The bytes come by range from the same
URLs, with the token sent to the hub's host and to none that it redirects to.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from node.engine.errors import BackendMissing, ModelNotFound
from node.models.errors import ModelDenied, ModelFetchFailed, NotHeld
from node.models.http_ranges import HttpRanges
from node.models.http_source import HttpFiles
from node.models.plan import FILES_MAX
from node.models.sources import FileDigest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["HubSource"]

INFO_TIMEOUT_S = 20.0
"""The one question about the whole repository."""
SHA1_BYTES = 20


class HubSource(HttpFiles):
    """Made by `open`; every file is read at that commit, so a moved branch mixes nothing."""

    def __init__(
        self, repository: str, commit: str, files: Mapping[str, FileDigest | None], api: "HfApi"
    ) -> None:
        """`files`: each of the repository's top-level files and what the hub says of it."""
        endpoint: str = api.endpoint
        super().__init__(HttpRanges(token=_token(api), token_url=endpoint))
        self._repository = repository
        self._commit = commit
        self._files = files
        self._endpoint = endpoint

    @classmethod
    async def open(
        cls,
        repository: str,
        *,
        revision: str | None = None,
        endpoint: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Ask the hub for a repository; left out, endpoint and token are huggingface_hub's own.

        Raises ModelNotFound, ModelDenied or ModelFetchFailed.
        """
        api = _api(endpoint, token)
        info = await asyncio.to_thread(_ask, api, repository, revision)
        siblings = info.siblings or []
        if len(siblings) > FILES_MAX:
            raise ModelFetchFailed(f"{repository} has more than {FILES_MAX} files.")
        files = {s.rfilename: _digest(s) for s in siblings if "/" not in s.rfilename}
        if not info.sha:
            raise ModelFetchFailed(f"The hub names no commit of {repository}.")
        return cls(repository, info.sha, files, api)

    @property
    def name(self) -> str:
        return f"hub {self._repository}@{self._commit[:8]}"

    @property
    def origin(self) -> str:
        return f"hub:{self._repository}@{self._commit}"

    @property
    def file_digests(self) -> Mapping[str, FileDigest]:
        return {name: digest for name, digest in self._files.items() if digest is not None}

    def _url_of(self, file: str) -> str:
        from huggingface_hub import hf_hub_url

        if file not in self._files:
            raise NotHeld(f"The repository has no {file}.")
        url: str = hf_hub_url(
            self._repository, file, revision=self._commit, endpoint=self._endpoint
        )
        return url


def _api(endpoint: str | None, token: str | None) -> "HfApi":
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise BackendMissing(
            "Fetching from the hub needs huggingface_hub, which is not installed.",
            hint="Run: pip install 'piecework[torch]', or name another source with --from.",
        ) from error
    return HfApi(endpoint=endpoint, token=token, library_name="piecework")


def _ask(api: "HfApi", repository: str, revision: str | None) -> Any:
    """The repository's commit and files; blocks."""
    from huggingface_hub import errors

    try:
        return api.model_info(
            repository, revision=revision, files_metadata=True, timeout=INFO_TIMEOUT_S
        )
    except errors.GatedRepoError as error:
        raise ModelDenied(
            f"{repository} is behind a licence that has to be accepted.",
            hint=f"Accept it at {api.endpoint}/{repository} and set HF_TOKEN.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{repository} has no revision '{revision}'.") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"The hub at {api.endpoint} has no model {repository}, or it is private.",
            hint="Check the name; set HF_TOKEN if it is private.",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelFetchFailed(
            f"{repository} is not here, and HF_HUB_OFFLINE forbids asking the hub.",
            hint="Unset HF_HUB_OFFLINE, or name another source with --from.",
        ) from error
    except errors.HFValidationError as error:
        raise ModelNotFound(f"'{repository[:128]}' is not the name of a model.") from error
    except Exception as error:  # which HTTP library it uses, and so what it raises, has changed
        raise ModelFetchFailed(
            f"The hub at {api.endpoint} did not answer ({type(error).__name__}).",
            hint="Check the connection, or name another source with --from.",
        ) from error


def _token(api: "HfApi") -> str | None:
    from huggingface_hub import get_token

    return api.token if isinstance(api.token, str) else get_token()


def _digest(sibling: Any) -> FileDigest | None:
    """What the hub says of a file: SHA-256 where it is large, git's blob id where it is not."""
    size = sibling.size
    lfs = sibling.lfs
    try:
        if lfs is not None:
            return FileDigest("sha256", bytes.fromhex(lfs["sha256"]), int(lfs["size"]))
        blob = bytes.fromhex(sibling.blob_id or "")
    except (ValueError, KeyError, TypeError):
        return None
    return FileDigest("git-sha1", blob, int(size or 0)) if len(blob) == SHA1_BYTES else None

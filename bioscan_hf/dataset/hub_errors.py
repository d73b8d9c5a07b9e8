"""Errors of the Hub in one line: what is the matter, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


@contextmanager
def explained(repo_id: str, token: str | None = None, *, revision: str | None = None) -> Iterator[None]:
    """Replaces errors of `huggingface_hub` about a repository by ones of one line.

    Raises:
        ConnectionError: if the Hub cannot be reached, is offline by choice, or has a fault.
        PermissionError: if the token is wrong or missing, or has no rights to the repository.
        FileNotFoundError: if there is no such repository or revision.
    """
    try:
        yield
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise ConnectionError(_no_connection(repo_id, error)) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"The repository {repo_id} on the Hub has no revision {revision!r}.") from error
    except GatedRepoError as error:
        url = f"{constants.ENDPOINT}/datasets/{repo_id}"
        raise PermissionError(f"{repo_id} is gated: ask for access at {url}, then `hf auth login`.") from error
    except HfHubHTTPError as error:
        raise _refusal(repo_id, token or get_token(), error) from error
    except HTTPError as error:
        raise ConnectionError(_no_connection(repo_id, error)) from error


def _no_connection(repo_id: str, error: Exception) -> str:
    if constants.HF_HUB_OFFLINE:
        return f"{repo_id}: offline mode is on (HF_HUB_OFFLINE), and the cache does not hold what is needed. Unset it."
    reason = " ".join(str(error.__cause__ or error).split())[:200]
    return (
        f"No connection to the Hub at {constants.ENDPOINT} for {repo_id} ({reason}). Check the network, the proxy and "
        f"HF_ENDPOINT, then run this again."
    )


def _refusal(repo_id: str, token: Any, error: HfHubHTTPError) -> OSError:
    """The error for an answer of the Hub."""
    status = error.response.status_code
    if isinstance(error, RepositoryNotFoundError) and (status == 404 or not token):
        hidden = "or this token has no rights to it" if token else "or it is private: log in by `hf auth login`"
        return FileNotFoundError(f"There is no dataset {repo_id} on the Hub, {hidden}.")
    if status == 401:
        if not token:
            return PermissionError(f"{repo_id}: not logged in. Log in by `hf auth login`, or set HF_TOKEN.")
        return PermissionError(
            f"{repo_id}: the Hub refused the token (401): it is wrong or has expired. Log in again by "
            f"`hf auth login`, or set HF_TOKEN."
        )
    if status == 403:
        owner = repo_id.split("/")[0]
        return PermissionError(
            f"{repo_id}: this token has no right to write there (403). Use a token with write access to {owner!r}, or "
            f"publish under your own name."
        )
    said = " ".join(str(error.server_message or error).split())[:200]
    if status >= 500:
        return ConnectionError(f"{repo_id}: the Hub has a fault ({status}: {said}). Run this again later.")
    return OSError(f"{repo_id}: the Hub refused the request ({status}: {said}).")

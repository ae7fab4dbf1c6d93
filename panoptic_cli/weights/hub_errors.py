"""Translate errors of huggingface_hub into what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

from panoptic_cli.errors import TransferError, one_line
from panoptic_cli.weights.repository import Repository

_REVISION = "main"


def cause_of(error: Exception) -> Exception:
    """Returns what the Hub or the network answered where huggingface_hub says only that it cannot plan the work."""
    from huggingface_hub import errors

    cause = error.__cause__
    return cause if isinstance(error, errors.DryRunError) and isinstance(cause, Exception) else error


def is_unreachable(error: Exception) -> bool:
    """Whether a cached copy answers the question as well: nobody said that there is no such repository."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx2.HTTPError))


def explained(error: Exception, repository: Repository, cache: Path) -> Exception:
    """Returns what is wrong and what to do; the error itself if it is none of the Hub's.

    Args:
        error: what huggingface_hub raised.
        repository: what was fetched.
        cache: the folder that it was fetched into.
    """
    import httpx2
    from huggingface_hub import constants, errors

    where = f"{constants.ENDPOINT}/{repository.name}"
    login = "Log in with 'hf auth login', or set HF_TOKEN."
    if isinstance(error, errors.GatedRepoError):
        return TransferError(
            f"{repository} is gated: its owner must grant you access.", f"Ask for it at {where}. {login}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return TransferError(
            f"{repository} does not exist, or it is private and may not be read with your token.",
            f"Check the name. {login}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return TransferError(
            f"{repository.name} has no revision '{repository.revision or _REVISION}'.",
            f"See {where}/tree/{_REVISION} for its branches, tags and commits.",
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return TransferError(f"The Hub does not accept the token for {repository}.", login)
    if is_unreachable(error) or isinstance(error, errors.HfHubHTTPError):
        offline = constants.is_offline_mode()
        reason = "HF_HUB_OFFLINE is set" if offline else one_line(_cause(error), 150)
        return TransferError(
            f"{repository} is not in the cache, and {constants.ENDPOINT} cannot be reached: {reason}.",
            f"{'Unset HF_HUB_OFFLINE' if offline else 'Check the network'}. Without a network, copy {cache} from a "
            f"machine that has fetched it, or give a folder with the files of {where}.",
        )
    if isinstance(error, httpx2.HTTPError) or not isinstance(error, OSError):
        return error
    if "Consistency check" in str(error):
        return TransferError(f"A file of {repository} arrives incomplete.", "Run the same command again.")
    place = error.filename or cache
    return TransferError(
        f"{place} cannot be written: {error.strerror or one_line(error)}.",
        "Free some space, or choose another folder with HF_HOME.",
    )


def _cause(error: BaseException) -> str:
    """Returns the first cause of an error in one line: the others repeat it with advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)

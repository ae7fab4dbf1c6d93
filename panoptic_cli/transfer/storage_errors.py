"""Translate errors of Cloud Storage into what is wrong and what to do.

The messages depend on the kind of error, and have the server's own sentence where it explains more. The libraries'
texts are not shown: they can contain request URLs with upload ids, and they describe internals instead of what to do.
"""

from __future__ import annotations

import http
from typing import Any

from panoptic_cli.errors import TransferError, one_line

_LOGIN = "Run: gcloud auth application-default login (or set GOOGLE_APPLICATION_CREDENTIALS to a key file)."
# A sentence with one of these may hold a token or an upload id.
_SECRET = ("Bearer", "token", "upload_id", "://")
# What a refused permission is called: "does not have storage.objects.list access", "Permission denied".
_PERMISSION = ("permission", "access", "denied")
_AGAIN = "Check the network, then run the same command again."


class ChecksumMismatchError(Exception):
    """An object in the bucket has another CRC32C than the file."""


class FileChangedError(Exception):
    """A file changed after its checksum was computed."""


def is_worth_resending(error: Exception) -> bool:
    """Whether sending the whole object again can help: the bytes arrived damaged, or the upload was lost."""
    import google.api_core.exceptions as api
    from google.cloud.storage import exceptions as storage

    status = 0
    if isinstance(error, api.GoogleAPICallError):
        status = int(error.code or 0)
    elif isinstance(error, storage.InvalidResponse):
        status = int(getattr(error.response, "status_code", 0))
    # 400: the content does not have the announced checksum. 404, 410: the server has forgotten the resumable upload;
    # Cloud Storage's documentation says to start over.
    # The library's ValueError: the file, or the server's part of it, is shorter than expected.
    return status in (http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE) or isinstance(
        error, (ChecksumMismatchError, storage.DataCorruption, ValueError)
    )


def as_transfer_error(error: Exception, bucket: str, *, reading: bool = False) -> TransferError:
    """Translates an error of the client library; see `explain`."""
    message, hint = explain(error, bucket, reading=reading)
    begins = message if message.startswith("gs://") else message[0].upper() + message[1:]
    return TransferError(f"{begins}.", hint)


def explain(error: BaseException, bucket: str, *, reading: bool = False) -> tuple[str, str]:
    """Explains an error of the client library.

    Args:
        error: the error.
        bucket: the bucket's name; empty if no bucket was involved.
        reading: whether objects were read, not written.

    Returns:
        (what is wrong, what to do). The first starts in lower case and has no final period.

    Raises:
        BaseException: `error` itself if it comes from neither the network, nor Cloud Storage, nor the disk.
    """
    import google.api_core.exceptions as api
    import google.auth.exceptions as auth
    import requests
    from google.cloud.storage import exceptions as storage

    if isinstance(error, (ChecksumMismatchError, storage.DataCorruption)):
        if reading:
            return (
                "the file that arrives does not have the object's size and CRC32C, even after several tries",
                "Something changes the bytes in transit. Check proxies, then run the same command again.",
            )
        return (
            "the object in the bucket does not have the file's CRC32C, even after several tries",
            "Something changes the bytes in transit. Check proxies, then run the same command again to replace it.",
        )
    if isinstance(error, FileChangedError):
        return (
            "the file changed while it was being sent",
            "Wait until no program writes to it, then run the same command again.",
        )
    if isinstance(error, auth.DefaultCredentialsError):
        return "there are no Google Cloud credentials, or they cannot be read", _LOGIN
    if isinstance(error, auth.InvalidOperation):
        return f"gs://{bucket} cannot be read without a login", _LOGIN
    if isinstance(error, auth.TransportError):
        return "Google's sign-in server does not answer", _AGAIN
    if isinstance(error, auth.GoogleAuthError):
        return "the Google Cloud credentials have expired or been revoked", _LOGIN
    if isinstance(error, api.RetryError) and error.cause is not None:
        return explain(error.cause, bucket, reading=reading)
    if isinstance(error, api.GoogleAPICallError):
        return _of_status(int(error.code or 0), bucket, _sentence(error.response), reading)
    if isinstance(error, storage.InvalidResponse):
        return _of_status(int(getattr(error.response, "status_code", 0)), bucket, _sentence(error.response), reading)
    if isinstance(error, requests.RequestException):
        return "Cloud Storage does not answer", _AGAIN
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or type(error).__name__}", "Check the file and the network."
    if type(error).__module__.partition(".")[0] in ("google", "requests", "urllib3"):
        return f"the Cloud Storage client failed ({type(error).__name__})", _AGAIN
    raise error


def _sentence(response: Any) -> str:
    """Returns what the server says in its answer, on one line; empty if it says nothing, or repeats the request."""
    try:
        text = one_line(response.json()["error"]["message"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
    return "" if any(word in text for word in _SECRET) else text


def _of_status(status: int, bucket: str, sentence: str, reading: bool) -> tuple[str, str]:
    said, lower = f': "{sentence}"' if sentence else "", sentence.lower()
    if "requester pays" in lower or "user project" in lower:
        return (
            f"gs://{bucket} is a requester-pays bucket{said}",
            "Name the project that pays: --user-project PROJECT.",
        )
    if reading and status == http.HTTPStatus.UNAUTHORIZED:
        return f"gs://{bucket} cannot be read without a login", _LOGIN
    if status == http.HTTPStatus.UNAUTHORIZED:
        return "Cloud Storage does not accept the credentials", _LOGIN
    if status == http.HTTPStatus.FORBIDDEN and sentence and not any(word in lower for word in _PERMISSION):
        return f"Cloud Storage refuses the request{said}", f"Ask the owner of gs://{bucket}."
    if reading and status in (http.HTTPStatus.FORBIDDEN, http.HTTPStatus.NOT_FOUND):
        problem = "no permission to read" if status == http.HTTPStatus.FORBIDDEN else "there is no such object in"
        return f"{problem} gs://{bucket}", f"Check the address, or ask the owner of gs://{bucket}."
    if status == http.HTTPStatus.FORBIDDEN:
        return (
            f"no permission to list and write objects in gs://{bucket}",
            "Ask the bucket's owner to run: gcloud storage buckets add-iam-policy-binding "
            f"gs://{bucket} --member=user:YOU --role=roles/storage.objectUser",
        )
    if status == http.HTTPStatus.NOT_FOUND:
        return (
            f"there is no bucket gs://{bucket}",
            f"Check the name, or create it with: gcloud storage buckets create gs://{bucket}",
        )
    if status == http.HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
        return f"Cloud Storage is overloaded or unavailable (HTTP {status})", "Run the same command again later."
    if status == http.HTTPStatus.BAD_REQUEST:
        return (
            f"Cloud Storage refused the content or the request (HTTP 400), even after several tries{said}",
            "Something may change the bytes in transit. Check proxies and the bucket's settings, then try again.",
        )
    return f"Cloud Storage refused the request (HTTP {status}){said}", "Check the bucket's name and settings."

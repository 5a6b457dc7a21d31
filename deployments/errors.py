"""Every error Manta raises on purpose, from any process. Standard library only: foreign environments import it.

A subclass is class attributes and takes exactly one message argument, so that it survives pickling across
processes. `api/errors.py` turns it into OpenAI's JSON.
"""

from typing import Self


class MantaError(Exception):
    """Base of all. `status`, `type` and `code` are what the client sees, beside the message."""

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    param: str | None = None
    """Name of the request field at fault, where there is one."""
    retry_after: float | None = None
    """Seconds after which another try makes sense; sent as `Retry-After`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        return str(self.args[0])

    def at(self, param: str) -> Self:
        """Name the request field at fault."""
        self.param = param
        return self

    def after(self, seconds: float) -> Self:
        """Say when another try makes sense."""
        self.retry_after = seconds
        return self


# ---- the client's mistakes -------------------------------------------------------------------------------------------


class InvalidRequest(MantaError):
    """A field is missing, of the wrong type, or out of range."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class UnsupportedParameter(InvalidRequest):
    """A known field asks for what this model or server can't do. Said, never dropped in silence."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt doesn't fit the model's context. The message holds both numbers."""

    code = "context_length_exceeded"


class Unauthorized(MantaError):
    """No key, or a wrong one."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(MantaError):
    """The key is right, and may not do this: its role, or its list of models."""

    status, type, code = 403, "permission_error", "forbidden"


class ModelNotAllowed(Forbidden):
    """The model is not among those that the key may use."""

    code = "model_not_allowed"


class ModelDisabled(MantaError):
    """The model's config says `disabled: true`."""

    status, type, code = 403, "invalid_request_error", "model_disabled"


class RouteNotFound(MantaError):
    """No such path."""

    status, type, code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(MantaError):
    """The path exists, for other methods."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class ModelNotFound(MantaError):
    """No installed model has this name."""

    status, type, code = 404, "invalid_request_error", "model_not_found"


class JobNotFound(MantaError):
    """No job has this uuid, or it ended too long ago."""

    status, type, code = 404, "invalid_request_error", "job_not_found"


class GalleryNotFound(MantaError):
    """No gallery has this name."""

    status, type, code = 404, "invalid_request_error", "gallery_not_found"


class NotLoaded(MantaError):
    """The model is installed, and not loaded."""

    status, type, code = 404, "invalid_request_error", "model_not_loaded"


class FileNotFound(MantaError):
    """No uploaded file has this id."""

    status, type, code = 404, "invalid_request_error", "file_not_found"


class AssistantNotFound(MantaError):
    """No assistant has this id, or the file is not one of its own."""

    status, type, code = 404, "invalid_request_error", "assistant_not_found"


class ImageNotFound(MantaError):
    """No generated image has this name, or it is older than the server keeps them."""

    status, type, code = 404, "invalid_request_error", "image_not_found"


class BodyTooSlow(MantaError):
    """The request body came in too slowly, or stopped."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class AlreadyExists(MantaError):
    """What was to be added is there under this name."""

    status, type, code = 409, "invalid_request_error", "already_exists"


class NotCancellable(MantaError):
    """The job has ended, or has come too far to be taken back."""

    status, type, code = 409, "invalid_request_error", "not_cancellable"


class BodyTooLarge(MantaError):
    """The request body is over the limit of its route."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class RangeNotSatisfiable(MantaError):
    """The bytes that a Range header names are not in the file."""

    status, type, code = 416, "invalid_request_error", "range_not_satisfiable"


class ClientGone(MantaError):
    """The client left before the answer; nobody reads this, the log does (nginx's 499)."""

    status, type, code = 499, "invalid_request_error", "client_closed_request"


# ---- the server's troubles -------------------------------------------------------------------------------------------


class EngineError(MantaError):
    """The engine failed on this request; its own words are the message."""

    code = "engine_error"


class BackendNotInstalled(MantaError):
    """The model's backend needs packages that aren't there. The message holds the command that installs them."""

    status, code = 503, "backend_not_installed"


class ModelLoadFailed(MantaError):
    """Loading failed; the engine's own words are the message, `retry_after` the cool-down."""

    status, code = 503, "model_load_failed"


class ModelUnloaded(MantaError):
    """The model was unloaded or removed while this request waited for it or ran on it."""

    status, code = 503, "model_unloaded"


class ReplicaDied(MantaError):
    """The process that served this request ended."""

    status, code = 503, "replica_died"


class Overloaded(MantaError):
    """Too many requests wait for this model."""

    status, type, code = 429, "rate_limit_error", "overloaded"


class RateLimited(MantaError):
    """The key has used up its requests or tokens of the last minute."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class ServerBusy(MantaError):
    """The server has as many requests as it takes at once (`max_concurrent_requests`)."""

    status, code = 503, "server_busy"


class NotReady(MantaError):
    """The server can't answer yet: it starts, or a part of it restarts."""

    status, code = 503, "not_ready"


class DownloadFailed(MantaError):
    """A file couldn't be fetched, or isn't the one its sha256 names."""

    status, code = 502, "download_failed"


class InsufficientStorage(MantaError):
    """The disk has no room for what was to be written."""

    status, code = 507, "insufficient_storage"


class StorageFailed(MantaError):
    """What keeps uploads and generated files can't be reached, or refuses. The log says more."""

    status, code = 503, "storage_failed"


class DeadlineExceeded(MantaError):
    """The request's time ran out."""

    status, code = 504, "deadline_exceeded"


# ---- the operator's mistakes -----------------------------------------------------------------------------------------


class ConfigInvalid(MantaError):
    """A config file or setting is wrong. The message names the file, the key and the fix."""

    code = "config_invalid"


def load_failure(model: str, error: MantaError) -> MantaError:
    """What a request is answered with for a model whose load failed. A fresh exception for each: one instance must not
    gather tracebacks of many."""
    failure = type(error) if error.status >= 500 else ModelLoadFailed
    return failure(f'model "{model}" could not be loaded: {error.message}')

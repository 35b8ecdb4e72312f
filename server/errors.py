"""All errors that a client of the service or a user of the command line can meet.

Clients get one tree and one envelope:

    ServerError
    ├── InvalidRequest            400  invalid_request_error
    │   ├── UnusableImage              invalid_request_error
    │   ├── MalformedRequest           malformed_request
    │   ├── UnknownThing               unknown_thing
    │   ├── ModerationBlocked          moderation_blocked
    │   └── UnknownModel               model_not_found
    ├── InvalidApiKey             401  invalid_api_key
    ├── Forbidden                 403
    │   ├── OriginNotAllowed           origin_not_allowed
    │   └── HostNotAllowed             host_not_allowed
    ├── NotFound                  404  not_found
    │   └── ModelNotFound              model_not_found
    ├── MethodNotAllowed          405  method_not_allowed
    ├── NotAcceptable             406  not_acceptable
    ├── RequestTimeout            408  request_timeout
    ├── RequestTooLarge           413  request_too_large
    ├── UnsupportedMediaType      415  unsupported_media_type
    │   └── UnsupportedEncoding        unsupported_encoding
    ├── RangeNotSatisfiable       416  range_not_satisfiable
    ├── HeaderTooLarge            431  header_too_large
    ├── TooManyRequests           429
    │   ├── QueueFull                  queue_full
    │   ├── TooManyUploads             too_many_uploads
    │   └── RateLimitExceeded          rate_limit_exceeded
    ├── ClientClosed              499  client_closed
    ├── InternalError             500  internal_error
    ├── Unavailable               503
    │   ├── ModelLoading               model_loading
    │   ├── Draining                   draining
    │   ├── Overloaded                 overloaded
    │   ├── EngineDead                 engine_dead
    │   ├── OutOfMemory                out_of_memory
    │   ├── ImageStoreFailed           image_store_failed
    │   ├── SigningFailed              signing_failed
    │   └── SafetyCheckFailed          safety_check_failed
    └── DeadlineExceeded          504  deadline_exceeded

The envelope is ``{"error": {"message", "type", "param", "code"}}`` for all of them; ``unknown_thing`` adds
``suggestions``, ``moderation_blocked`` adds ``moderation_details``.

Users of the command line get one sentence on stderr:

    UsageError
    ├── CannotListen      the address or port cannot be bound
    └── ServingFailed     the server had to stop because its model cannot be loaded
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NotRequired, TypedDict

from starlette.responses import JSONResponse

Outcome = Literal["ok", "invalid", "rejected", "cancelled", "deadline", "oom", "error"]
"""Outcome of a request in ``star_requests_total``."""


class ModerationDetails(TypedDict):
    """What the safety hook refused, and why."""

    moderation_stage: Literal["input", "output"]
    categories: list[str]


class ErrorBody(TypedDict):
    """The value of ``error`` in an answer."""

    message: str
    type: str
    param: str | None
    code: str
    suggestions: NotRequired[list[str]]
    moderation_details: NotRequired[ModerationDetails]


class Envelope(TypedDict):
    """The body of an answer that is an error."""

    error: ErrorBody


class ServerError(Exception):
    """Base of all errors that reach a client.

    Args:
        message: a sentence that says what went wrong and what to do.
        param: the field of the request that caused it, if any.
        retry_after: seconds after which trying again may help.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    outcome: ClassVar[Outcome] = "error"
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def envelope(self) -> Envelope:
        """Return the body of the answer, as plain data."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        headers = {} if self.retryable else {"x-should-retry": "false"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers


class InvalidRequest(ServerError):
    """A field is missing, unknown, of the wrong type, out of range, or asks for what the model cannot do."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request_error"
    outcome: ClassVar[Outcome] = "invalid"


class MalformedRequest(InvalidRequest):
    """What was sent is not HTTP/1.1, or not in a form that everyone reads alike."""

    code = "malformed_request"


class UnknownThing(InvalidRequest):
    """The prompt asks for a thing that the model cannot draw."""

    code = "unknown_thing"

    def __init__(
        self, message: str, *, param: str | None = None, suggestions: Sequence[str]
    ) -> None:
        super().__init__(message, param=param)
        self.suggestions = list(suggestions)

    def envelope(self) -> Envelope:
        envelope = super().envelope()
        envelope["error"]["suggestions"] = self.suggestions
        return envelope


class ModerationBlocked(InvalidRequest):
    """The safety hook refuses the request, or an image that was painted for it. Type and code are OpenAI's.

    Args:
        stage: what was refused.
        categories: as the hook names them.
    """

    type = "image_generation_user_error"
    code = "moderation_blocked"

    def __init__(self, stage: Literal["input", "output"], categories: Sequence[str] = ()) -> None:
        refused = "this request" if stage == "input" else "an image that was generated for it"
        found = f" safety_violations=[{', '.join(categories)}]." if categories else ""
        super().__init__(f"The safety check refused {refused}; change the prompt.{found}")
        self.details = ModerationDetails(moderation_stage=stage, categories=list(categories))

    def envelope(self) -> Envelope:
        envelope = super().envelope()
        envelope["error"]["moderation_details"] = self.details
        return envelope


class UnknownModel(InvalidRequest):
    """The request names a model that is not loaded. On its images routes OpenAI answers 400, and clients rely on it."""

    code = "model_not_found"


UploadReason = Literal["format", "structure", "size", "damaged", "mask", "time", "memory", "crash"]
"""Reason of ``star_uploads_refused_total``."""


class UnusableImage(InvalidRequest):
    """An uploaded image is not one, is damaged, too large, or would cost too much to decode."""

    def __init__(self, message: str, *, param: str | None = None, reason: UploadReason) -> None:
        super().__init__(message, param=param)
        self.reason: UploadReason = reason

    @property
    def decoded(self) -> bool:
        """Whether it was decoded before it was refused, or at least begun."""
        return self.reason not in ("format", "structure", "size")


class InvalidApiKey(InvalidRequest):
    """The server needs an API key, and the request has none or a wrong one."""

    status = 401
    code = "invalid_api_key"
    outcome = "rejected"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"www-authenticate": "Bearer"}


class Forbidden(InvalidRequest):
    """The request comes from where this server serves nobody."""

    status = 403
    outcome = "rejected"


class OriginNotAllowed(Forbidden):
    """A page of another site has sent it, from the browser of somebody who reaches this server."""

    code = "origin_not_allowed"


class HostNotAllowed(Forbidden):
    """``Host`` is not a name of this server."""

    code = "host_not_allowed"


class NotFound(InvalidRequest):
    """No such path, or nothing by that name."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """The named model is not the one that is loaded."""

    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class NotAcceptable(InvalidRequest):
    """The ``Accept`` header allows no media type that the endpoint can answer with."""

    status = 406
    code = "not_acceptable"


class RequestTimeout(InvalidRequest):
    """The client did not send its request in time; the same request may succeed over a better connection."""

    status = 408
    code = "request_timeout"
    retryable = True


class RequestTooLarge(InvalidRequest):
    """The body is larger than allowed."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body is not of the content type that the endpoint reads."""

    status = 415
    code = "unsupported_media_type"


class UnsupportedEncoding(UnsupportedMediaType):
    """The body is compressed."""

    code = "unsupported_encoding"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"accept-encoding": "identity"}


class RangeNotSatisfiable(InvalidRequest):
    """The Range header names bytes that the file does not have.

    Args:
        message: as for all errors.
        size: of the file, in bytes.
    """

    status = 416
    code = "range_not_satisfiable"

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self._size = size

    def headers(self) -> dict[str, str]:
        return super().headers() | {"content-range": f"bytes */{self._size}"}


class HeaderTooLarge(InvalidRequest):
    """The header of the request is larger than allowed, or has too many lines."""

    status = 431
    code = "header_too_large"


class TooManyRequests(ServerError):
    """The request exceeds a limit for now; it may succeed later."""

    status = 429
    type = "rate_limit_error"
    outcome = "rejected"
    retryable = True


class QueueFull(TooManyRequests):
    """The bounded queue has no room for the request's images."""

    code = "queue_full"


class RateLimitExceeded(TooManyRequests):
    """The caller has used up its limit per minute."""

    code = "rate_limit_exceeded"


class TooManyUploads(TooManyRequests):
    """The caller's request bodies under way take up more than one caller's share."""

    code = "too_many_uploads"


class ClientClosed(ServerError):
    """The client disconnected before the answer; seen in logs and metrics only."""

    status = 499
    type = "client_error"
    code = "client_closed"
    outcome = "cancelled"


class InternalError(ServerError):
    """A fault of the server."""


class Unavailable(ServerError):
    """The server cannot serve requests right now."""

    status = 503
    code = "unavailable"
    outcome: ClassVar[Outcome] = "rejected"
    retryable = True


class ModelLoading(Unavailable):
    """The first load of the model is not finished."""

    code = "model_loading"


class Draining(Unavailable):
    """The server is shutting down and takes no new requests."""

    code = "draining"


class Overloaded(Unavailable):
    """All connections, memory or disk space for request bodies, or processes for decoding, are taken."""

    code = "overloaded"


class EngineDead(Unavailable):
    """The worker process died with the request, or is restarting."""

    code = "engine_dead"
    outcome = "error"


class OutOfMemory(Unavailable):
    """The request's batch did not fit in the device's memory."""

    code = "out_of_memory"
    outcome = "oom"


class ImageStoreFailed(Unavailable):
    """The store of images failed: a full disk, or no answer from the network."""

    code = "image_store_failed"
    outcome = "error"


class SigningFailed(Unavailable):
    """An image could not be signed, and the server sends none without its signature."""

    code = "signing_failed"
    outcome = "error"


class SafetyCheckFailed(Unavailable):
    """The safety hook failed or took too long, and the server sends nothing that was not checked."""

    code = "safety_check_failed"
    outcome = "error"


class DeadlineExceeded(ServerError):
    """The request's deadline passed, queued or running."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    outcome = "deadline"


def error_response(error: ServerError) -> JSONResponse:
    """Return the answer for an error."""
    return JSONResponse(error.envelope(), status_code=error.status, headers=error.headers())


class UsageError(Exception):
    """A command cannot be carried out as it was given; the text is a sentence for the user."""


class CannotListen(UsageError):
    """The address or port cannot be bound."""


class ServingFailed(UsageError):
    """The server had to stop because its model cannot be loaded."""

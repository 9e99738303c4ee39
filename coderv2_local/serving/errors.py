"""What goes wrong with a request → a status and JSON in the shape that OpenAI's clients read."""

from typing import Any

from coderv2_local.engine_errors import ContextFull
from coderv2_local.sampling.sampler import GrammarDeadEnd
from quant.errors import CoderError, InputError

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    503: "overloaded_error",
}
RETRY_SECONDS = 2


class ApiError(Exception):
    """A request that is not answered, and why.

    Args:
        status: of the response.
        message: for the one who sent the request.
        param: the field of the request that is wrong.
        code: a word for programs.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the response, or of the last event where the answer had begun."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        if self.status == 503:
            return {"Retry-After": str(RETRY_SECONDS)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be understood, or asks for what there is not."""
    return ApiError(400, message, param=param, code=code)


def shutting_down() -> ApiError:
    """Nothing is begun any more."""
    return ApiError(503, "the server is shutting down", code="shutting_down")


def api_error(error: BaseException) -> ApiError:
    """What a client is told of `error`. Of what nobody foresaw it learns nothing but that it happened."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextFull):
        return bad(error.message, code="context_length_exceeded")
    if isinstance(error, GrammarDeadEnd):
        return bad(error.message, code="grammar_dead_end")
    if isinstance(error, InputError):
        return bad(f"{error.message} ({error.hint})" if error.hint else error.message)
    if isinstance(error, CoderError):
        return ApiError(500, error.message)
    return ApiError(500, "the server failed; its own log says more", code="internal_error")

"""What Ray and Serve raise, in our words."""

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from deployments.errors import MantaError, Overloaded, ReplicaDied


def translated(error: Exception, callee: str, gone: MantaError) -> MantaError | Exception:
    """The error of a call on the deployment `callee`; `gone` where there is no such deployment any more.

    `cause` is the replica's own exception; `str(error)` would be a traceback.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, MantaError):
        return cause
    if isinstance(cause, BackPressureError):
        return Overloaded(f"too many requests wait for {callee}").after(1)
    if isinstance(cause, DeploymentUnavailableError):
        return gone
    if isinstance(cause, RayActorError):
        return ReplicaDied("the process that ran this request ended").after(1)
    if isinstance(cause, RequestCancelledError):
        return type(gone)("the request was cancelled").after(1)
    return error

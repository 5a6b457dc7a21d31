"""A job of the gallery, in LocalAI's terms."""

from pydantic import BaseModel, ConfigDict

from gallery.status import JobStatus, Phase


class JobStarted(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    uuid: str
    status: str
    """Where its status is: an absolute URL."""


class JobView(BaseModel):
    """How a job is doing."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    deletion: bool
    error: str | None
    file_name: str
    """The file that is being fetched."""
    file_size: str
    """Of all files of the job: "1.2 GiB". Empty: not known yet."""
    downloaded_size: str
    gallery_model_name: str
    message: str
    """`processing`, then `completed`, `cancelled` or `error: …`."""
    processed: bool
    """It has ended, whichever way."""
    progress: float
    """Percent."""

    # Ours
    uuid: str
    phase: Phase
    current_bytes: int
    total_bytes: int
    """0: not known yet."""
    rate: float
    """Bytes a second."""
    eta: float | None
    """Seconds left, where that can be said."""
    warnings: list[str]
    """What to know of a model that was installed all the same."""
    cancelled: bool
    cancellable: bool
    created: float
    """Unix seconds."""
    updated: float


def to_job_view(status: JobStatus) -> JobView:
    return JobView(
        deletion=status.deletion,
        error=status.error or None,
        file_name=status.file_name,
        file_size=_size(status.total_bytes) if status.total_bytes else "",
        downloaded_size=_size(status.current_bytes),
        gallery_model_name=status.model,
        message=_MESSAGES.get(status.phase, "processing").format(error=status.error),
        processed=status.phase.final,
        progress=round(status.progress, 2),
        uuid=status.uuid,
        phase=status.phase,
        current_bytes=status.current_bytes,
        total_bytes=status.total_bytes,
        rate=status.rate,
        eta=status.eta,
        warnings=list(status.warnings),
        cancelled=status.phase is Phase.CANCELLED,
        cancellable=status.phase is Phase.QUEUED or not (status.deletion or status.phase.final),
        created=status.created,
        updated=status.updated,
    )


_MESSAGES = {Phase.COMPLETED: "completed", Phase.CANCELLED: "cancelled", Phase.FAILED: "error: {error}"}


def _size(count: float) -> str:
    """Bytes as LocalAI writes them: `512.0 MiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"

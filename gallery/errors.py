"""How a read from a source fails, beyond DownloadFailed itself: what another try may mend."""

from deployments.errors import DownloadFailed


class Interrupted(DownloadFailed):
    """A connection broke or stalled, or the server is busy: the same read may go well on another try."""


class Busy(Interrupted):
    """The server asks for fewer requests (429, 503): a connection beside others that work is one too many."""


class Changed(DownloadFailed):
    """The file at the source is no longer the one of which the first bytes were fetched: start again."""

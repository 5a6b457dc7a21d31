"""What stands for a picture among token ids."""

import numpy as np

from deployments.backends.jobs import Job
from deployments.backends.media_span import MediaSpan, row_ids


def test_rows_of_equal_content_alone_are_equal() -> None:
    one, same, other = row_ids(b"a", 300), row_ids(b"a", 300), row_ids(b"b", 300)
    assert one == same
    assert len({*one, *other}) == 600
    assert max(*one, *other) < 0, "no token"


def test_a_job_knows_where_its_media_stand() -> None:
    spans = [MediaSpan(start, np.zeros((rows, 2), np.float32)) for start, rows in ((0, 3), (5, 2), (7, 1))]
    job = Job(list(range(10)), 20, None, None, spans=spans)  # type: ignore[arg-type]
    assert [job.spans.index(span) if (span := job.span_at(place)) else None for place in range(10)] == [
        *(0, 0, 0, None, None),
        *(1, 1, 2, None, None),
    ]
    assert [job.stretch(place) for place in range(10)] == [3, 3, 3, 5, 5, 7, 7, 8, 10, 10]
    assert [job.whole(length) for length in range(11)] == [0, 0, 0, 3, 4, 5, 5, 7, 8, 9, 10]

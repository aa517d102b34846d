"""What a server takes from strangers, and how it says no."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

MIB = 1 << 20


class RequestError(Exception):
    """A request answered with an error, in one line: what was got, was expected, and cures it."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """Bounds of a server."""

    max_bytes: int = 64 * MIB  # of a request's body
    max_pixels: int = 50_000_000  # of an image, known before it is decoded
    queue: int = 64  # requests that are read, wait or are computed; one more is refused
    batch_size: int = 4  # images predicted at once, of those that wait
    seconds: float = 60.0  # until a request is answered, once its body is there
    body_seconds: float = 30.0  # until its body is there

    @property
    def held_bytes(self) -> int:
        """Bodies in memory, all together: what fits four of the largest."""
        return 4 * self.max_bytes


class Admission:
    """Counts requests and the bytes they hold; used by the event loop's thread alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = self.held = 0

    @contextmanager
    def request(self, retry_after: int) -> Iterator[Ticket]:
        """A place in the queue while the request is worked on; RequestError if it is full."""
        if self.requests >= self.limits.queue:
            # ``retry_after`` is in seconds
            raise busy(f"{self.requests} requests are waiting, the most there may be", retry_after)
        self.requests += 1
        ticket = Ticket(self, retry_after)
        try:
            yield ticket
        finally:
            self.requests -= 1
            self.held -= ticket.held


class Ticket:
    """What one request holds."""

    def __init__(self, admission: Admission, retry_after: int) -> None:
        self.admission, self.retry_after, self.held = admission, retry_after, 0

    def hold(self, count: int) -> None:
        """Hold so many bytes more; RequestError if this request, or all, would hold too many."""
        limits, held = self.admission.limits, self.admission.held
        if self.held + count > limits.max_bytes:
            raise too_large(limits)
        if held + count > limits.held_bytes:
            raise busy(f"{held // MIB} MB of images are waiting", self.retry_after)
        self.held += count
        self.admission.held += count


def busy(why: str, retry_after: int) -> RequestError:
    """503: come back later."""
    return RequestError(503, f"busy: {why}; try again later", {"Retry-After": str(retry_after)})


def too_large(limits: Limits) -> RequestError:
    """413: the body."""
    most = limits.max_bytes / MIB
    return RequestError(
        413, f"the body is larger than {most:g} MB, the limit: send a smaller image, or --max-size"
    )

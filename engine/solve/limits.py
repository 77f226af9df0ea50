"""One limiter for each scarce resource, made once for an engine and passed to whoever uses the resource."""

from __future__ import annotations

from anyio import CapacityLimiter
from msgspec import Struct

from engine.settings import Limits


class Limiters(Struct, frozen=True):
    """`steps` that run at once, `downloads` and `uploads` of blobs, and `workers`: jobs in worker processes."""

    steps: CapacityLimiter
    downloads: CapacityLimiter
    uploads: CapacityLimiter
    workers: CapacityLimiter

    @classmethod
    def of(cls, limits: Limits) -> Limiters:
        """Must be called in an event loop."""
        return cls(*(CapacityLimiter(n) for n in (limits.steps, limits.downloads, limits.uploads, limits.workers)))

"""The parts of batch work in one server, joined together."""

from __future__ import annotations

from collections.abc import Callable

from server.batches.batch_store import BatchStore
from server.batches.file_store import FileStore
from server.batches.objects import GuardedObjects
from server.batches.records import Endpoint
from server.batches.run import Serve, Workplace
from server.batches.runner import BatchRunner
from server.metrics import Metrics
from server.settings import Settings


class BatchService:
    """Files, batches, and the work at them.

    Args:
        objects: keep everything.
        settings: of the server.
        metrics: where results are counted.
        serve: answers a request of a batch.

    Attributes:
        files: of requests and of results.
        batches: of all owners.
        runner: works at them.
    """

    def __init__(
        self, objects: GuardedObjects, settings: Settings, metrics: Metrics, serve: Serve
    ) -> None:
        self.files = FileStore(objects, settings)
        self.batches = BatchStore(objects, self.files, settings)
        self._objects = objects
        workplace = Workplace(
            settings,
            self.files,
            self.batches,
            serve,
            longest=longest_request(settings),
            count=lambda kind: metrics.batch_requests.labels(kind).inc(),
        )
        self.runner = BatchRunner(
            objects, workplace, ended=lambda record: metrics.batches.labels(record.status).inc()
        )
        metrics.watch("batches_running", lambda: self.runner.running)

    def start(self) -> None:
        """Go on with unfinished batches; the event loop runs."""
        self.runner.start()

    async def close(self) -> None:
        """Leave all batches as they are, for the next start."""
        await self.runner.close()
        await self._objects.close()


def longest_request(settings: Settings) -> Callable[[Endpoint], int]:
    """Return a function of an endpoint that gives the bytes that a request may have over HTTP, and so in a batch."""
    bytes_of: dict[Endpoint, int] = {
        "/v1/images/generations": settings.max_body_bytes,
        "/v1/images/edits": settings.max_upload_bytes,
    }
    return bytes_of.__getitem__

"""Errors of the routes for files and batches; they belong to the tree of :mod:`server.errors`.

ServerError
├── NotFound                  404
│   └── BatchesOff                 batches_off
├── TooManyRequests           429
│   └── BatchLimit                 batch_limit_exceeded
└── Unavailable               503
    └── BatchStoreFailed           batch_store_failed
"""

from __future__ import annotations

from typing import ClassVar

from server.errors import NotFound, Outcome, TooManyRequests, Unavailable


class BatchesOff(NotFound):
    """The server has no store for files and batches."""

    code = "batches_off"


class BatchLimit(TooManyRequests):
    """The caller has as many files or unfinished batches as it may have, or the store is full."""

    code = "batch_limit_exceeded"
    retryable = False  # deleting files helps, or the end of a batch; not trying again


class BatchStoreFailed(Unavailable):
    """The store of files and batches failed: a full disk, or no answer from the network."""

    code = "batch_store_failed"
    outcome: ClassVar[Outcome] = "error"

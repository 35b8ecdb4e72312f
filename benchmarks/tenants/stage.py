"""The server of the soak: its files, its process, and what is asked of it beside images."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.metrics_page import MetricsPage
from benchmarks.server_process import free_port, serving

PATIENCE_S = 180.0
"""What is to happen in the server has not, after this time."""

_LOOK_S = 0.2


class NotAsPromised(Exception):
    """The server did something else than its documentation says; the text says what."""


@dataclass
class Stage:
    """A running server, and the files that change under it.

    Args:
        folder: has the files.
        keys: of the tenants, by name.
        admin_key: of the port for administrators.
        url: of the server.
        pid: of its process.
        admin_url: of that port.
    """

    folder: Path
    keys: Mapping[str, str]
    admin_key: str
    url: str = ""
    pid: int = 0
    admin_url: str = ""
    http: httpx.AsyncClient = field(init=False)
    admin: httpx.AsyncClient = field(init=False)

    @property
    def log(self) -> Path:
        """What the server writes."""
        return self.folder / "server.log"

    @contextlib.contextmanager
    def serving(self, model: str, **options: object) -> Iterator[None]:
        """Run the server while this is entered; its files of keys and settings have been written.

        Args:
            model: name or directory.
            options: further flags.
        """
        if (
            signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        ):  # as `nohup` leaves it, for what is started here too
            signal.signal(signal.SIGHUP, lambda *_: None)
        self._write("admin-key", self.admin_key)
        port = free_port()
        options = {
            "model": model,
            "workers": 1,
            "config": self.folder / "star.yaml",
            "api_key_file": self.folder / "keys.yaml",
            "admin_port": port,
            "admin_key_file": self.folder / "admin-key",
            "image_store": f"file://{self.folder / 'images'}",
            "batch_store": f"file://{self.folder / 'batches'}",
            "log_level": "warning",
            "log_format": "json",
            **options,
        }
        with serving(self.log, **options) as (own, self.pid):
            self.url, self.admin_url = f"http://127.0.0.1:{own}", f"http://127.0.0.1:{port}"
            yield

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Have clients of both ports while this is entered."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S) as self.http,
            httpx.AsyncClient(base_url=self.admin_url, headers=headers, timeout=600) as self.admin,
        ):
            yield

    # ---- files
    def write_keys(self, terms: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the file of keys: those of ``terms``, by their names."""
        entries = [
            {"name": name, "hash": f"sha256:{_digest(self.keys[name])}", **fields}
            for name, fields in terms.items()
        ]
        self._write("keys.yaml", yaml.safe_dump({"keys": entries}))

    def spoil_keys(self) -> None:
        """Replace the file of keys by one that cannot be used."""
        self._write("keys.yaml", "keys: [")

    def write_settings(self, **settings: Any) -> None:
        """Replace the file of settings."""
        self._write("star.yaml", yaml.safe_dump(settings))

    def _write(self, name: str, text: str) -> None:
        # Never half a file: the server reads them when it likes.
        new = self.folder / f"{name}.new"
        new.write_text(text, encoding="utf-8")
        new.chmod(0o600)
        os.replace(new, self.folder / name)

    # ---- the server
    async def metrics(self) -> MetricsPage:
        """Return what ``/metrics`` says now."""
        return MetricsPage((await self.http.get("/metrics")).raise_for_status().text)

    def hang_up(self) -> None:
        """Send SIGHUP."""
        os.kill(self.pid, signal.SIGHUP)

    async def until(self, what: str, holds: Callable[[MetricsPage], bool]) -> MetricsPage:
        """Wait until the metrics say so; return the page that does.

        Raises:
            NotAsPromised: they do not; the text names ``what``.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not holds(page := await self.metrics()):
            if time.monotonic() > deadline:
                raise NotAsPromised(f"{what}: not within {PATIENCE_S:.0f} s")
            await asyncio.sleep(_LOOK_S)
        return page


def new_keys(*names: str) -> dict[str, str]:
    """Make a key for each tenant."""
    return {name: secrets.token_urlsafe(32) for name in names}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("ascii")).hexdigest()

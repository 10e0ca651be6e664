"""Opens bundles again that are replaced on disk, while the server runs.

A bundle is opened and run once before it takes the place of the old one, between two requests; requests in progress
finish on the old one. A bundle that cannot be opened changes nothing: the old one stays, and the log says why.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.serve.middleware import log_event
from kerasimg.deploy.serve.service import Service
from kerasimg.deploy.serve.session import Model

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass
class Source:
    """Where a served model comes from."""

    folder: Path
    signature: Signature = field(init=False)
    """The files as they were before they were opened."""
    latest: Signature = field(init=False)
    """The files as they were at the last look."""

    def __post_init__(self) -> None:
        self.signature = self.latest = signature(self.folder)


def signature(folder: Path) -> Signature:
    """Returns path, identity, size and time of every file in a folder; () if it does not exist."""
    entries: list[tuple[str, int, int, int]] = []
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                entry = os.stat(os.path.join(place, name))
                entries.append((os.path.join(place, name), entry.st_ino, entry.st_size, entry.st_mtime_ns))
    return tuple(sorted(entries))


class Reloader:
    """Looks at the bundles of a service from time to time."""

    def __init__(self, service: Service, sources: Mapping[str, Source]) -> None:
        """Takes the sources by the names of their models."""
        self._service = service
        self._sources = sources

    @asynccontextmanager
    async def running(self, seconds: float) -> AsyncIterator[None]:
        """Looks at the bundles at intervals of `seconds` while the context is open; never if 0."""
        task = asyncio.create_task(self._run(seconds))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self, seconds: float) -> None:
        while seconds:
            await asyncio.sleep(seconds)
            for name in self._sources:
                await self.look(name)

    async def look(self, name: str) -> bool:
        """Opens a model again if its bundle has changed and no longer changes; returns whether it is served now."""
        source = self._sources[name]
        latest = await asyncio.to_thread(signature, source.folder)
        settled, source.latest = latest == source.latest, latest
        if not latest or not settled or latest == source.signature:
            return False
        source.signature = latest
        try:
            model = await asyncio.to_thread(self._open, source.folder, name)
        except Exception as error:  # a runtime raises anything; the server continues with the old model
            self._service.metrics.reloads.labels(name, "refused").inc()
            log_event("reload", model=name, outcome="refused", error=str(error))
            return False
        await self._service.replace(model)
        self._service.metrics.reloads.labels(name, "served").inc()
        log_event("reload", model=name, outcome="served", version=model.version)
        return True

    def _open(self, folder: Path, name: str) -> Model:
        return Model.open(Bundle.open(folder), self._service.settings, name)

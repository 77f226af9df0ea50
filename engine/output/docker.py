"""Docker's image archives: what `docker load` and `podman load` read. As BuildKit writes them, an OCI layout that also has a
`manifest.json`; layers stay compressed.
"""

from __future__ import annotations

from engine.content.base import ContentStore
from engine.output.base import Built
from engine.output.blobs import Fetch, Progress
from engine.output.files import write_layout
from engine.output.layout import MANIFEST_FILE, REPOSITORIES_FILE, manifest_json, repositories_json, single
from engine.output.place import Place


class DockerOutput:
    """Implements `Output`: an archive, or a directory with the same files. One platform only."""

    name = "docker archive"

    def __init__(self, place: Place, content: ContentStore, fetch: Fetch, progress: Progress | None = None) -> None:
        self._place, self._content, self._fetch, self._progress = place, content, fetch, progress

    async def write(self, built: Built) -> str:
        """Writes the archive; raises as `OciOutput.write` does, and `UsageError` for several platforms."""
        single(built)
        pages = {MANIFEST_FILE: manifest_json, REPOSITORIES_FILE: repositories_json}
        return await write_layout(built, self._place, self._content, self._fetch, pages, self._progress)

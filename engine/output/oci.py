"""OCI image layouts: what skopeo, umoci, podman and containerd read (OCI image spec, image-layout.md)."""

from __future__ import annotations

from engine.content.base import ContentStore
from engine.output.base import Built
from engine.output.blobs import Fetch, Progress
from engine.output.files import write_layout
from engine.output.place import Place


class OciOutput:
    """Implements `Output`: an archive, or a directory, to which an image can be added as long as it is a layout.

    The tag is the name of the image in it (`org.opencontainers.image.ref.name`); an image that had that name loses it.
    """

    name = "oci layout"

    def __init__(self, place: Place, content: ContentStore, fetch: Fetch, progress: Progress | None = None) -> None:
        self._place, self._content, self._fetch, self._progress = place, content, fetch, progress

    async def write(self, built: Built) -> str:
        """Writes the layout; raises `StorageError`, `ContentError`, and `RegistryError` when a layer has to be fetched."""
        return await write_layout(built, self._place, self._content, self._fetch, {}, self._progress)

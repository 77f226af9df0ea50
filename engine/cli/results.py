"""What is left of a build beside the image: files for scripts, and a few lines for people."""

from __future__ import annotations

import os
from pathlib import Path

from engine import codec
from engine.errors import StorageError
from engine.image.descriptor import INDEX_TYPES
from engine.request import BuildRequest, BuildResult


def metadata(result: BuildResult) -> dict[str, object]:
    """What docker buildx writes into its `--metadata-file`."""
    out: dict[str, object] = {} if _several(result) else {"containerimage.config.digest": str(result.image_id)}
    out |= {
        "containerimage.descriptor": {"mediaType": result.media_type, "digest": str(result.digest), "size": result.size},
        "containerimage.digest": str(result.digest),
    }
    return out | ({"image.name": ",".join(result.names)} if result.names else {})


def write(result: BuildResult, *, iidfile: str | None, metadata_file: str | None) -> None:
    """Writes the files that were asked for, each whole or not at all. Raises `StorageError`."""
    if iidfile:
        _publish(Path(iidfile), str(result.digest if _several(result) else result.image_id).encode())
    if metadata_file:
        _publish(Path(metadata_file), codec.encode_pretty(metadata(result)))


def summary(request: BuildRequest, result: BuildResult) -> str:
    """Lines for a person: the digest, the names, and where the image went."""
    lines = [f"built {result.digest} ({_count(result.ran, 'step')} run, {result.cached} cached)"]
    verb = "pushed" if any(output.kind == "registry" for output in request.outputs) else "named"
    lines += [f"{verb} {name}" for name in result.names]
    lines += [f"wrote {output.destination} ({output.kind})" for output in request.outputs if output.destination]
    if not request.outputs:
        lines.append("kept in the state directory only: use --push to push it to a registry, or -o to write it to a file")
    return "\n".join(lines) + "\n"


def _several(result: BuildResult) -> bool:
    """Whether the image is an index, which has no config of its own."""
    return result.media_type in INDEX_TYPES


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _publish(path: Path, data: bytes) -> None:
    try:
        if path.exists() and not path.is_file():  # a pipe or /dev/stdout: nothing to be renamed over
            path.write_bytes(data)
            return
        import tempfile

        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error

"""Bytes as what has changed of others, which whoever reads them has: zstd with these as its dictionary."""

from __future__ import annotations

import zstandard

from engine.errors import ContentError

_LEVEL = 3
_WINDOW = 28
"""Of 2: what may lie between two places that are the same."""


def patch(data: bytes, base: bytes) -> bytes:
    """The data as a patch of the base, about as large as what the base does not have."""
    size = max(17, min((len(base) >> 2).bit_length(), 25))  # one entry for every four bytes: with fewer, places are forgotten
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, window_log=_WINDOW - 1, hash_log=size, chain_log=size,
                                                                write_checksum=True, write_content_size=True)  # fmt: skip
    return bytes(zstandard.ZstdCompressor(dict_data=_dictionary(base), compression_params=parameters).compress(data))


def unpatch(patched: bytes, base: bytes, most: int) -> bytes:
    """The data of a patch of the base; raises `ContentError` when it is none, or of more than so many bytes."""
    try:
        if not 0 <= zstandard.frame_content_size(patched) <= most:
            raise ContentError(f"a patch is of more than {most} bytes, or does not say of how many")
        reader = zstandard.ZstdDecompressor(dict_data=_dictionary(base), max_window_size=1 << _WINDOW)
        return bytes(reader.decompress(patched, max_output_size=most))
    except zstandard.ZstdError as error:
        raise ContentError(f"a patch is corrupt: {error}") from error


def _dictionary(base: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

"""Reading archives: of every format, in every cut, and hostile ones."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ContentError
from engine.layer.contents import Contents
from engine.layer.tarstream import Member, TarStream


def stream_of(data: bytes, size: int = 1 << 20) -> TarStream:
    pieces = iter([data[at : at + size] for at in range(0, len(data), size)])
    return TarStream(lambda: next(pieces, b""))


def read(data: bytes, size: int = 1 << 20) -> list[tuple[Member, bytes]]:
    stream = stream_of(data, size)
    out = []
    while member := stream.next():
        out.append((member, b"".join(map(bytes, stream.content(member)))))
    return out


def archive(add: Callable[[tarfile.TarFile], None], format: int = tarfile.PAX_FORMAT, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, **options) as tar:  # type: ignore[call-overload]
        add(tar)
    return buffer.getvalue()


def info(name: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def block(name: bytes = b"f", size: bytes = b"00000000000\0", kind: bytes = b"0", **at: bytes) -> bytes:
    """A header block with any bytes in its fields, and a right checksum."""
    raw = bytearray(512)
    raw[: len(name)] = name
    raw[100:108], raw[108:116], raw[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    raw[124:136], raw[136:148], raw[156:157], raw[257:265] = size, b"00000000000\0", kind, b"ustar\x0000"
    for offset, value in at.items():
        start = int(offset[1:])
        raw[start : start + len(value)] = value
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    body = b""
    for key, value in records:
        rest = len(key) + len(value) + 3
        length = rest + len(str(rest + len(str(rest))))
        body += b"%d %b=%b\n" % (length, key, value)
    return raw_pax(body, kind)


def raw_pax(body: bytes, kind: bytes = b"x") -> bytes:
    return block(b"PaxHeader", b"%011o\0" % len(body), kind) + body + bytes(-len(body) % 512)


END = bytes(1024)


def everything(tar: tarfile.TarFile) -> None:
    tar.addfile(info("d" * 90 + "/" + "f" * 120, size=700, mode=0o4755, uid=5, gid=6, mtime=7), io.BytesIO(b"x" * 700))
    tar.addfile(info("dir", type=tarfile.DIRTYPE, mode=0o1777))
    tar.addfile(info("sym", type=tarfile.SYMTYPE, linkname="t" * 150))
    tar.addfile(info("hard", type=tarfile.LNKTYPE, linkname="d" * 90 + "/" + "f" * 120))
    tar.addfile(info("char", type=tarfile.CHRTYPE, devmajor=1, devminor=3))
    tar.addfile(info("fifo", type=tarfile.FIFOTYPE))
    tar.addfile(info("ü", size=3), io.BytesIO(b"abc"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_reads_alike(format: int) -> None:
    def add(tar: tarfile.TarFile) -> None:
        everything(tar)
        if format != tarfile.USTAR_FORMAT:
            tar.addfile(info("owned", uid=2**31, gid=2**32 - 2))

    def short(tar: tarfile.TarFile) -> None:
        with tarfile.open(fileobj=io.BytesIO(archive(add))) as long:
            for member in long.getmembers():
                member.name, member.linkname = member.name[-100:], member.linkname[-100:]
                tar.addfile(member, io.BytesIO(bytes(member.size)))

    data = archive(short if format == tarfile.USTAR_FORMAT else add, format)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        want = tar.getmembers()
    got = [member for member, _ in read(data)]
    assert [(m.name.decode(), m.mode, m.uid, m.gid, m.size, m.mtime // 10**9, m.link.decode(), m.major, m.minor) for m in got] \
        == [(m.name + "/" * m.isdir(), m.mode, m.uid, m.gid, m.size, int(m.mtime), m.linkname, m.devmajor, m.devminor) for m in want]


@given(st.integers(1, 2000))
@settings(max_examples=30, deadline=None)
def test_it_does_not_matter_how_the_stream_is_cut(size: int) -> None:
    data = archive(everything)
    assert read(data, size) == read(data)


def test_it_reads_on_when_content_is_left_unread_or_half_read() -> None:
    stream = stream_of(archive(everything), 333)
    first = stream.next()
    assert first
    next(stream.pieces(first))
    names = []
    while member := stream.next():
        names.append(member.name)
        assert stream.at_hand(member.stored) is None or member.stored < 333
    assert names[-1] == "ü".encode()


def test_offsets_say_where_content_lies() -> None:
    data = archive(everything)
    for member, content in read(data, 100):
        assert data[member.offset : member.offset + member.stored] == content


def test_times_have_their_fractions() -> None:
    data = pax((b"mtime", b"1700000000.123456789123")) + block() + pax((b"mtime", b"-1.5")) + block() + END
    assert [m.mtime for m, _ in read(data)] == [1700000000123456789, -1500000000]


def test_old_headers_without_magic_are_read() -> None:
    old = bytearray(block(b"dir/", kind=b"\0"))
    old[257:265] = bytes(8)
    old[148:156] = b" " * 8
    old[148:156] = b"%6o\0 " % sum(old)
    (member, _), = read(bytes(old) + END)
    assert (member.name, member.type) == (b"dir/", ord("5"))


def test_a_global_header_applies_to_nothing() -> None:
    data = pax((b"path", b"other"), (b"uid", b"5"), kind=b"g") + block(b"mine") + END
    (member, _), = read(data)
    assert (member.name, member.uid) == (b"mine", 0)


@pytest.mark.parametrize("tail", [b"", bytes(512), bytes(1024), bytes(10240), bytes(1024) + b"anything"])
def test_an_archive_may_end_in_any_usual_way(tail: bytes) -> None:
    assert len(read(block() + tail)) == 1


def test_a_holey_file_of_the_oldest_form() -> None:
    data = block(b"s", b"00000000004\0", b"S", o257=b"ustar  \0", o386=b"%011o\0%011o\0" % (3, 2), o410=b"%011o\0%011o\0" % (8, 2),
                 o434=b"%011o\0%011o\0" % (10, 0), o483=b"%011o\0" % 10) + b"abcd".ljust(512, b"\0") + END
    (member, content), = read(data)
    assert (member.size, member.sparse, content) == (10, ((3, 2), (8, 2), (10, 0)), b"\0\0\0ab\0\0\0cd")


def test_a_holey_file_whose_map_goes_on_in_more_blocks() -> None:
    parts = [(i * 10, 1) for i in range(30)]
    fields = [b"%011o\0%011o\0" % part for part in parts]
    more = b"".join(fields[4:25]).ljust(504, b"\0") + b"\x01" + bytes(7)
    last = b"".join(fields[25:]).ljust(512, b"\0")
    data = block(b"s", b"%011o\0" % 30, b"S", o386=b"".join(fields[:4]), o482=b"\x01", o483=b"%011o\0" % 300) + more + last
    data += b"x" * 30 + bytes(482) + block(b"next") + END
    (_, content), (after, _) = read(data)
    assert (len(content), content.count(b"x"), content[290], after.name) == (300, 30, ord("x"), b"next")


@pytest.mark.parametrize("records", [
    ((b"GNU.sparse.size", b"10"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.offset", b"6"), (b"GNU.sparse.numbytes", b"4")),
    ((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"6,4"), (b"GNU.sparse.name", b"s")),
])  # fmt: skip
def test_holey_files_of_the_first_pax_forms(records: tuple[tuple[bytes, bytes], ...]) -> None:
    data = pax(*records) + block(b"s", b"00000000004\0") + b"abcd".ljust(512, b"\0") + END
    (member, content), = read(data)
    assert (member.name, content) == (b"s", b"\0" * 6 + b"abcd")


def test_a_holey_file_of_the_last_pax_form() -> None:
    data = pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"), (b"GNU.sparse.realsize", b"10"))
    data += block(b"GNUSparseFile.0/s", b"%011o\0" % 516) + b"2\n0\n1\n7\n3\n".ljust(512, b"\0") + b"abcd".ljust(512, b"\0")
    data += block(b"next") + END
    for size in (1 << 20, 100):
        (member, content), (after, _) = read(data, size)
        assert (member.name, member.stored, content, after.name) == (b"s", 4, b"a" + b"\0" * 6 + b"bcd", b"next")


BROKEN = {
    "checksum": bytes([block()[0] ^ 1]) + block()[1:] + END,
    "cut in the header": block()[:100],
    "cut in the content": block(size=b"00000002000\0") + bytes(512),
    "cut in the padding": block(size=b"00000000001\0") + b"x",
    "nothing after a pax header": pax((b"path", b"x")) + END,
    "nothing after a long name": block(b"L", b"00000000001\0", b"L") + b"x".ljust(512, b"\0") + END,
    "a lone block of zeros": block() + bytes(512) + block() + END,
    "a negative size": block(size=b"\xff" * 12) + END,
    "a negative size in digits": block(size=b"-0000000001\0") + END,
    "a size that is no number": block(size=b"0000000x000\0") + END,
    "digits that are not octal": block(size=b"00000000008\0") + END,
    "underscores": block(size=b"000_000_010\0") + END,
    "an unknown type": block(kind=b"V") + END,
    "a pax header that is too long": block(size=b"%011o\0" % (2 << 20), kind=b"x") + bytes(2 << 20) + block() + END,
    "a pax record with a wrong length": raw_pax(b"8 path=x\n") + block() + END,
    "a pax record that goes on": raw_pax(b"99 path=x\n") + block() + END,
    "a pax record without a length": raw_pax(b"path=x\n") + block() + END,
    "a pax record with a length of zero": raw_pax(b"0 path=x\n") + block() + END,
    "a pax record without =": raw_pax(b"8 pathx\n") + block() + END,
    "a huge pax length": raw_pax(b"9" * 19 + b" path=x\n") + block() + END,
    "NUL in a pax path": pax((b"path", b"a\0b")) + block() + END,
    "a pax size that is none": pax((b"size", b"-1")) + block() + END,
    "a pax size beyond all": pax((b"size", b"99999999999999999999")) + block() + END,
    "a pax time that is none": pax((b"mtime", b"noon")) + block() + END,
    "an owner beyond all": pax((b"uid", b"4294967296")) + block() + END,
    "holes out of order": pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"6,2,3,2")) + block(size=b"00000000004\0") + bytes(512),
    "holes beyond the end": pax((b"GNU.sparse.size", b"5"), (b"GNU.sparse.map", b"6,4")) + block(size=b"00000000004\0") + bytes(512),
    "holes with more than is there": pax((b"GNU.sparse.size", b"50"), (b"GNU.sparse.map", b"6,9")) + block(size=b"00000000004\0")
    + bytes(512),
    "a file that is all hole and too large": pax((b"GNU.sparse.size", b"9" * 18), (b"GNU.sparse.map", b"")) + block() + END,
    "a map with an odd number": pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"1")) + block() + END,
    "a map of no end": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")) + block(size=b"00000001000\0") + b"1" * 512 + END,
    "a form of the future": pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0")) + block(size=b"00000001000\0") + bytes(512),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("size", [1 << 20, 77])
def test_a_broken_archive_is_a_content_error(data: bytes, size: int) -> None:
    with pytest.raises(ContentError):
        read(data, size)


@given(st.integers(0, 2**32), st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_no_damage_ends_in_anything_but_a_content_error(seed: int, flips: int) -> None:
    data = bytearray(pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"6,4")) + block(b"s", b"00000000004\0") + bytes(512)
                     + archive(everything))  # fmt: skip
    chance = random.Random(seed)
    for _ in range(flips):
        at = chance.randrange(len(data) - 10240)
        data[at] = chance.randrange(256)
        start = at // 512 * 512
        if chance.random() < 0.8:  # mend the checksum, so that the damage is looked at
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    stream, contents = stream_of(bytes(data), 700), Contents()
    try:
        while member := stream.next():
            if entry := contents.entry(member):
                contents.add(entry)
            if member.size < 1 << 20:
                assert sum(map(len, stream.content(member))) == member.size
    except ContentError:
        pass

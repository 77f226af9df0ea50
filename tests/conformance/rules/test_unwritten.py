"""What BuildKit does and its reference does not say (B1–B11), and entries of the tables that no numbered rule repeats."""

from __future__ import annotations

import io
import tarfile

import pytest

from .images import Case, Dir, case

pytestmark = pytest.mark.system


def tar(*names: str, device: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        if device:
            info = tarfile.TarInfo(device)
            info.type, info.devmajor, info.devminor, info.mode = tarfile.BLKTYPE, 8, 1, 0o640
            archive.addfile(info)
    return out.getvalue()


UNWRITTEN = [
    case("capabilities-of-the-context-are-lost", "B1", dockerfile="FROM @busybox AS s\nRUN cp -p /data/cap /x\nFROM @busybox\n"
         "COPY --from=s /data/xattr /data/cap /x/", files={"/x": "d 755 0:0", "/x/xattr": "- 644 0:0 xattr\n", "/x/cap": "- 755 0:0 cap\n cap"}),
    case("several-sources-to-a-name", "B2", dockerfile="FROM scratch\nCOPY a b /name", context={"a": "a", "b": "b"},
         files={"/name": "- 644 0:0 b"}),
    case("made-folders-have-their-own-mode", "B3", dockerfile="FROM scratch\nCOPY tmp /tmp\nCOPY top /deep/", context={
         "tmp": Dir(0o1777), "tmp/x": "", "top/in": Dir(0o1777)},
         files={"/tmp": "d 755 0:0", "/tmp/x": "- 644 0:0", "/deep": "d 755 0:0", "/deep/in": "d 1777 0:0"}),
    case("sticky-chmod", "B3", dockerfile="FROM scratch\nCOPY --chmod=1777 d /d", context={"d": Dir(), "d/in": Dir(0o700), "d/f": "f"},
         files={"/d": "d 777 0:0", "/d/in": "d 1777 0:0", "/d/f": "- 1777 0:0 f"}),
    case("link-makes-folders-anew", "B4", dockerfile="FROM @busybox\nCOPY --link f /tmp/a/f\nCOPY --link f /home/app/f", context={"f": "f"},
         files={"/tmp": "d 755 0:0", "/tmp/a": "d 755 0:0", "/tmp/a/f": "- 644 0:0 f", "/home/app": "d 755 0:0", "/home/app/f": "- 644 0:0 f"}),
    case("whiteouts-of-an-archive-delete", "B5", dockerfile="FROM @busybox\nADD t.tar /etc/", context={"t.tar": tar(".wh.motd", "new")},
         files={"/etc/motd": "gone", "/etc/new": "- 644 0:0"}),
    case("block-devices-become-character-devices", "B6",
         dockerfile="FROM @busybox AS s\nADD t.tar /n/\nFROM scratch\nCOPY --from=s /n /n", context={"t.tar": tar(device="b")},
         files={"/n": "d 755 0:0", "/n/b": "c 640 0:0 8,1"}),
    case("the-last-declaration-wins", "B7", dockerfile="FROM @busybox\nENV v=env\nARG v=arg\nRUN echo $v > /x\nENV v=again\nRUN echo $v > /y",
         files={"/x": "- 644 0:0 arg\n", "/y": "- 644 0:0 again\n"}),
    case("mount-points-stay-behind", "B8", dockerfile='FROM @bare\nRUN ["/bin/busybox", "true"]', base="bare",
         files={"/dev": "d 755 0:0", "/proc": "d 755 0:0", "/sys": "d 755 0:0"}),
    case("a-link-to-the-base-is-a-copy", "B9", dockerfile="FROM @busybox\nRUN ln /data/a /data/a2 && ln /data/h1 /data/h3",
         files={"/data/a2": "- 644 0:0 a\n", "/data/h3": "- 644 0:0 hard\n"}),
    case("times-of-folders-are-no-change", "B10", dockerfile="FROM @busybox\nRUN touch -d @1000 /data", files={}),
]  # fmt: skip


@pytest.mark.parametrize("case", UNWRITTEN)
def test_what_the_reference_does_not_say(shop, case: Case) -> None:
    shop.check(case)


@pytest.mark.rule("B11")
def test_a_workdir_is_kept_as_written(shop) -> None:
    assert shop.build("FROM scratch\nWORKDIR /x//y/").config["WorkingDir"] == "/x//y/"


@pytest.mark.rule("B10")
def test_a_folder_whose_time_alone_changed_is_in_no_layer(shop) -> None:
    assert shop.build("FROM @busybox\nRUN touch -d @1000 /data /data/sub").layers == [[]]

"""RUN --mount, rule by rule (47–58)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from engine.request import SshSource

from .images import Case, File, case

pytestmark = pytest.mark.system

MOUNTS = [
    case("secret-as-asked-for", 47, secrets={"mysecret": "s"},
         dockerfile="FROM @busybox\nRUN --mount=type=secret,id=mysecret,required=false,mode=741,uid=100,gid=102,target=/mysecret "
                    "stat -c '%u:%g %a %s' /mysecret > /x\nRUN test ! -e /mysecret", files={"/x": "- 644 0:0 100:102 741 1\n"}),
    case("secret-default-place", 47, secrets={"s": "value"},
         dockerfile="FROM @busybox\nRUN --mount=type=secret,id=s stat -c '%u:%g %a' /run/secrets/s > /x", files={"/x": "- 644 0:0 0:0 400\n"}),
    case("secret-required", 48, dockerfile="FROM @busybox\nRUN --mount=type=secret,required,id=s true", error="secret s: not found"),
    case("secret-optional", 48, dockerfile="FROM @busybox\nRUN --mount=type=secret,id=s test ! -e /run/secrets/s", files={}),
    case("secret-as-a-variable", 49, secrets={"s": "value"},
         dockerfile="FROM @busybox\nENV E=env\nRUN --mount=type=secret,id=s,env=E test ! -e /run/secrets/s && test $E = value", files={}),
    case("secret-as-both", 49, secrets={"s": "value"},
         dockerfile="FROM @busybox\nRUN --mount=type=secret,id=s,env=E,target=/s test $E = value -a $(cat /s) = value", files={}),
    case("bind-is-read-only", 51, dockerfile="FROM @busybox\nRUN --mount=type=bind,target=/src touch /src/x", error="exit code: 1"),
    case("bind-writable-drops-writes", 51, context={"f": "f"},
         dockerfile="FROM @busybox\nRUN --mount=type=bind,target=/src,rw echo changed > /src/f && touch /src/new\n"
                    "RUN test ! -e /src\nCOPY f /f", files={"/f": "- 644 0:0 f"}),
    case("bind-of-a-stage", 52,
         dockerfile="FROM @busybox AS stage\nRUN mkdir /a && echo a > /a/f\nFROM @busybox\nWORKDIR /w\n"
                    "RUN --mount=type=bind,from=stage,source=/a,target=b cat /w/b/f > /x", files={"/w": "d 755 0:0", "/x": "- 644 0:0 a\n"}),
    case("bind-of-one-file", 52, context={"d/f": "f"},
         dockerfile="FROM @busybox\nRUN --mount=source=d/f,target=/g cat /g > /x", files={"/x": "- 644 0:0 f"}),
    case("bind-of-an-image", 52, dockerfile="FROM @busybox\nRUN --mount=from=@files,target=/i cat /i/pub/one > /x",
         files={"/x": "- 644 0:0 one\n"}),
    case("target-only-for-the-mount", 53, dockerfile="FROM @busybox\nRUN --mount=type=tmpfs,target=/data/new/deep true",
         times=("/data",), files={"/data": "d 755 0:0 @1577836800"}),
    case("cache-directory", 54, dockerfile="FROM @busybox\nRUN --mount=type=cache,target=/rules54 stat -c '%u:%g %a' /rules54 > /x",
         files={"/x": "- 644 0:0 0:0 755\n"}),
    case("cache-directory-of-a-user", 54,
         dockerfile="FROM @busybox\nRUN --mount=type=cache,target=/rules54u,uid=1000 stat -c '%u:%g %a' /rules54u > /x",
         files={"/x": "- 644 0:0 1000:0 755\n"}),
    case("cache-shared-by-its-target", 54,
         dockerfile="FROM @busybox AS one\nRUN --mount=type=cache,target=/rules54s echo one > /rules54s/f && touch /done\n"
                    "FROM @busybox\nCOPY --from=one /done /\nRUN --mount=type=cache,target=/rules54s cp /rules54s/f /x",
         files={"/done": "- 644 0:0", "/x": "- 644 0:0 one\n"}),
    case("cache-that-begins-with-something", 55,
         dockerfile="FROM @busybox AS stage\nRUN mkdir /x && echo seed > /x/f\nFROM @busybox\n"
                    "RUN --mount=type=cache,target=/rules55,from=stage,source=/x cat /rules55/f > /y && echo more > /rules55/g",
         files={"/y": "- 644 0:0 seed\n"}),
    case("tmpfs-hides-what-is-there", 58, dockerfile="FROM @busybox\nRUN --mount=type=tmpfs,target=/data test -z \"$(ls -A /data)\" && touch /data/x\n"
                                                     "RUN test -e /data/a -a ! -e /data/x", files={}),
    case("tmpfs-size", 58, dockerfile="FROM @busybox\nRUN --mount=type=tmpfs,target=/t,size=64m df -m /t | awk 'NR==2 {print $2}' > /x",
         files={"/x": "- 644 0:0 64\n"}),
    case("target-root", 52, dockerfile="FROM @busybox\nRUN --mount=type=tmpfs,target=/ true", error="invalid mount target"),
    case("unknown-key", 23, dockerfile="FROM @busybox\nRUN --mount=typ=tmpfs,target=/x true", error="unexpected key 'typ'.*did you mean type"),
    case("unknown-type", 23, dockerfile="FROM @busybox\nRUN --mount=type=tmp,target=/x true", error='unsupported mount type "tmp".*did you mean tmpfs'),
]  # fmt: skip


@pytest.mark.parametrize("case", MOUNTS)
def test_mounts(shop, case: Case) -> None:
    shop.check(case)


@pytest.mark.rule(49)
def test_a_secret_is_in_no_step_name_and_no_history(shop) -> None:
    built = shop.build("FROM @busybox\nRUN --mount=type=secret,id=s,env=E echo ok", secrets={"s": "hush-hush"}, no_cache=True)
    assert not any("hush" in by for by, _ in built.history)
    assert "hush" not in repr(built.events)


@pytest.mark.rule(50)
def test_another_secret_is_no_reason_to_run(shop) -> None:
    dockerfile = "FROM @busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s > /rule50"
    shop.build(dockerfile, secrets={"s": "one"})
    again = shop.build(dockerfile, secrets={"s": "two"})
    assert (again.result.ran, again.files) == (0, {"/rule50": "- 644 0:0 one"})


@pytest.mark.rule(51)
def test_a_writable_mount_leaves_the_context_alone(shop) -> None:
    folder = shop.context({"f": "f"})
    shop.build("FROM @busybox\nRUN --mount=target=/src,rw echo x > /src/f; rm /src/Dockerfile; touch /src/new", folder=folder)
    assert sorted(p.name for p in folder.iterdir()) == ["Dockerfile", "f"]
    assert (folder / "f").read_text() == "f"


SHARED = """\
FROM @busybox AS base
FROM base AS a
RUN --mount=type=cache,id=rule56{mode},target=/c,sharing={mode} echo $$ > /c/in-a; {a}
FROM base AS b
RUN --mount=type=cache,id=rule56{mode},target=/c,sharing={mode} echo $$ > /c/in-b; {b}
FROM scratch
COPY --from=a /out /a
COPY --from=b /out /b
"""


@pytest.mark.rule(56)
def test_a_shared_cache_is_had_by_both_at_once(shop) -> None:
    wait = "until test -e /c/in-{}; do usleep 5000; done; echo met > /out"
    files = shop.build(SHARED.format(mode="shared", a=wait.format("b"), b=wait.format("a"))).files
    assert files == {"/a": "- 644 0:0 met\n", "/b": "- 644 0:0 met\n"}


@pytest.mark.rule(56)
def test_a_locked_cache_is_had_by_one_at_a_time(shop) -> None:
    alone = "mkdir /c/busy && usleep 50000 && rmdir /c/busy && echo alone > /out"
    files = shop.build(SHARED.format(mode="locked", a=alone, b=alone)).files
    assert files == {"/a": "- 644 0:0 alone\n", "/b": "- 644 0:0 alone\n"}


@pytest.mark.rule(56)
def test_a_private_cache_is_had_by_one_alone_and_another_by_the_next(shop) -> None:
    dockerfile = (SHARED.replace("target=/c,sharing={mode} echo", "target=/c,sharing={mode} --mount=type=cache,id=meet56,target=/meet echo")
                  .format(mode="private", a="touch /meet/a; until test -e /meet/b; do usleep 5000; done; ls /c > /out",
                          b="touch /meet/b; until test -e /meet/a; do usleep 5000; done; ls /c > /out"))  # fmt: skip
    assert shop.build(dockerfile).files == {"/a": "- 644 0:0 in-a\n", "/b": "- 644 0:0 in-b\n"}


@pytest.mark.rule(57)
def test_a_file_seen_through_a_mount_counts(shop) -> None:
    dockerfile = "FROM @busybox\nRUN --mount=target=/src cat /src/f > /rule57"
    folder = shop.context({"f": "one"})
    shop.build(dockerfile, folder=folder)
    assert shop.build(dockerfile, folder=folder).result.ran == 0
    (folder / "f").write_text("two")
    assert shop.build(dockerfile, folder=folder).files == {"/rule57": "- 644 0:0 two"}


@pytest.mark.rule(57)
def test_the_time_of_a_file_seen_through_a_mount_does_not_count(shop) -> None:
    dockerfile = "FROM @busybox\nRUN --mount=target=/src cat /src/f > /rule57t"
    shop.build(dockerfile, {"f": File("same", mtime=1)})
    assert shop.build(dockerfile, {"f": File("same", mtime=2)}).result.ran == 0


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH")
@pytest.mark.rule("T9")
def test_an_agent_for_a_key(shop, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    dockerfile = ("FROM @busybox\nRUN --mount=type=ssh,required,mode=660,uid=5 test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK > /x && "
                  "stat -c '%u %a' $SSH_AUTH_SOCK >> /x")  # fmt: skip
    built = shop.build(dockerfile, ssh={"default": SshSource("default", keys=(tmp_path / "key",))})
    assert built.files == {"/x": "- 644 0:0 /run/buildkit/ssh_agent.0\n5 660\n"}
    assert "unset ssh forward key" in shop.fails(dockerfile + " #").message

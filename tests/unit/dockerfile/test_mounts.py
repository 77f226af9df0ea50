"""The values of `RUN --mount` (rules A3 "Mount…", 23, 47 to 58)."""

from __future__ import annotations

import pytest

from engine.dockerfile.expand import expand
from engine.dockerfile.mounts import (
    BindSpec,
    CacheSpec,
    MountSpec,
    SecretSpec,
    SshSpec,
    TmpfsSpec,
    check_mount_text,
    expand_mount,
    parse_mount,
)
from engine.errors import DockerfileError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("target=/src", BindSpec("/src")),
        ("type=bind,source=a/b,dst=rel,from=stage", BindSpec("rel", "a/b", "stage")),
        ("destination=/a,src=b,rw", BindSpec("/a", "b", readwrite=True)),
        ("target=/a,readwrite=true", BindSpec("/a", readwrite=True)),
        ("target=/a,rw=false", BindSpec("/a")),
        ("target=/a,ro=0", BindSpec("/a", readwrite=True)),
        ("target=/a,rw,ro", BindSpec("/a")),
        ("TYPE=BIND,Target=/A", BindSpec("/A")),
        ("type=cache,target=/c", CacheSpec("/c", "/c")),
        ("type=cache,target=/c//d/", CacheSpec("/c/d", "/c//d/")),
        (
            "type=cache,id=x,target=c,sharing=Locked,from=s,source=/y,mode=0700,uid=1,gid=2,ro",
            CacheSpec("x", "c", "locked", "s", "/y", 0o700, 1, 2, True),
        ),
        ("type=cache,target=/c,readonly=false", CacheSpec("/c", "/c")),
        ("type=tmpfs,target=/t", TmpfsSpec("/t")),
        ("type=tmpfs,target=/t,size=64m", TmpfsSpec("/t", 64 << 20)),
        ("type=tmpfs,target=/t,size=1.5GiB", TmpfsSpec("/t", 3 << 29)),
        ("type=tmpfs,target=/t,size=100", TmpfsSpec("/t", 100)),
        ("type=tmpfs,target=/t,size=2 kB", TmpfsSpec("/t", 2048)),
        ("type=tmpfs,target=/t,size=7b", TmpfsSpec("/t", 7)),
        ("type=secret,id=s", SecretSpec("s", "/run/secrets/s")),
        ("type=secret,id=a/s", SecretSpec("a/s", "/run/secrets/s")),
        ("type=secret,source=s", SecretSpec("s", "/run/secrets/s")),
        ("type=secret,target=/etc/key", SecretSpec("key", "/etc/key")),
        ("type=secret,id=s,env=E", SecretSpec("s", "", env="E")),
        ("type=secret,id=s,env=E,target=/f", SecretSpec("s", "/f", env="E")),
        (
            "type=secret,required=false,mode=741,uid=100,gid=102,target=/mysecret",
            SecretSpec("mysecret", "/mysecret", False, 0o741, 100, 102),
        ),
        ("type=secret,required,id=s", SecretSpec("s", "/run/secrets/s", True)),
        ("type=ssh", SshSpec()),
        ("type=ssh,id=x,target=/s,required=true,mode=0666,uid=1,gid=2", SshSpec("x", "/s", True, 0o666, 1, 2)),
        ('type=bind,"target=/a,b"', BindSpec("/a,b")),
        ('"target=/a ""q"""', BindSpec('/a "q"')),
    ],
)
def test_mounts(text: str, spec: MountSpec) -> None:
    assert parse_mount(text) == spec


@pytest.mark.rule(23)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("typ=tmpfs", "unexpected key 'typ' in 'typ=tmpfs' (did you mean type?)"),
        ("type=tmpfs,taget=/t", "unexpected key 'taget' in 'taget=/t' (did you mean target?)"),
        ("type=tmp", 'unsupported mount type "tmp" (did you mean tmpfs?)'),
        ("type=volume", 'unsupported mount type "volume"'),
        ("type=cache,sharing=share,target=/a", 'unsupported sharing value "share" (did you mean shared?)'),
        ("type=bind,required", "unexpected key 'required' for mount type 'bind'"),
        ("required=true,type=secret,id=x", "unexpected key 'required' for mount type 'bind'"),
        ("type=cache,size=1m,target=/a", "unexpected key 'size' for mount type 'cache'"),
        ("target=/a,env=x", "unexpected key 'env' for mount type 'bind'"),
        ("type=tmpfs,target=/a,size=1x", "invalid value for size: 1x"),
        ("type=tmpfs,target=/a,size=-1", "invalid value for size: -1"),
        ("type=tmpfs,target=/a,mode=755", 'mode not allowed for "tmpfs" type mounts'),
        ("target=/a,uid=1", 'uid not allowed for "bind" type mounts'),
        ("target=/a,gid=1", 'gid not allowed for "bind" type mounts'),
        ("target=/a,sharing=locked", "invalid cache sharing set for bind mount"),
        ("type=secret,id=a,sharing=locked", "secret mount should not define sharing"),
        ("type=secret,id=a,from=x", "secret mount should not have a from"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("type=ssh,source=a", "ssh does not support source"),
        ("target=/", 'invalid mount target "/"'),
        ("target=//./", 'invalid mount target "//./"'),
        ("type=cache,target=/a,mode=9", "invalid value 9 for mode"),
        ("type=cache,target=/a,mode=-1", "invalid value -1 for mode"),
        ("type=cache,target=/a,uid=x", "invalid value x for uid"),
        ("type=cache,target=/a,gid=4294967296", "invalid value 4294967296 for gid"),
        ("target=/a,ro=yes", "invalid value for ro: yes"),
        ("target=/a,readwrite=2", "invalid value for readwrite: 2"),
        ("type=ssh,required=x", "invalid value for required: x"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("target=/a,", "invalid field '' must be a key=value pair"),
        ("", "failed to parse csv mounts: EOF"),
        ('target="/a"', 'failed to parse csv mounts: bare " in non-quoted field "target=\\"/a\\""'),
        ('"target=/a"b', 'failed to parse csv mounts: extraneous or missing " in quoted field'),
        ('"target=/a', 'failed to parse csv mounts: extraneous or missing " in quoted field'),
        ("from=${x},target=/a", "'from' doesn't support variable expansion, define alias stage instead"),
    ],
)
def test_mounts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_mount(text)
    assert caught.value.message == message


def test_a_lone_dollar_in_from_is_no_variable() -> None:
    assert parse_mount("from=a$,target=/x") == BindSpec("/x", from_="a$")


def test_variables_stand_for_values_and_bring_in_no_fields() -> None:
    values = {"T": "/a,rw", "Q": 'say "hi"', "K": "target"}

    def expanded(text: str) -> str:
        return expand_mount(text, lambda value: expand(value, values))

    assert parse_mount(expanded("source=$Q,target=$T")) == BindSpec("/a,rw", 'say "hi"')
    assert parse_mount(expanded("target='/x'")) == BindSpec("/x")
    assert expanded("rw,target=/a") == "rw,target=/a"
    with pytest.raises(DockerfileError, match="unexpected key"):
        parse_mount(expanded("$K=/a"))


def test_only_from_and_the_form_are_checked_before_variables_are_known() -> None:
    check_mount_text("typ=$x,nonsense,target=$y")
    with pytest.raises(DockerfileError, match="define alias stage instead"):
        check_mount_text("from=$x")
    with pytest.raises(DockerfileError, match="csv"):
        check_mount_text('a"b')

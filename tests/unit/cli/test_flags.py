"""Values of flags: what docker buildx understands, and what is refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from engine.cli import flags
from engine.errors import EngineError, SecretError, UsageError
from engine.image.platform import Platform
from engine.request import OutputRequest, SecretSource, SshSource

AMD64 = Platform("linux", "amd64")


def test_build_args_come_from_the_environment_when_they_have_no_value() -> None:
    given = ["A=1", "B", "C", "D=", "E=a=b", "A=2"]
    assert flags.build_args(given, {"B": "env", "X": "no"}) == {"A": "2", "B": "env", "D": "", "E": "a=b"}


def test_a_label_without_value_is_empty() -> None:
    assert flags.pairs(["a", "b=c"], "--label") == {"a": "", "b": "c"}
    with pytest.raises(UsageError, match="the key is missing"):
        flags.pairs(["=x"], "--label")


def test_annotations_are_of_the_manifest() -> None:
    assert flags.manifest_annotations(["a.b=c", "manifest:d=e:f", "g=h:i=j"]) == {"a.b": "c", "d": "e:f", "g": "h:i=j"}
    for value in ("index:a=b", "manifest[linux/amd64]:a=b", "index,manifest:a=b", "novalue", "=x"):
        with pytest.raises(UsageError):
            flags.manifest_annotations([value])


def test_platforms() -> None:
    assert flags.platforms(["linux/arm64,amd64", "local", "linux/arm64/v8"], AMD64) == (Platform("linux", "arm64"), AMD64)
    assert flags.platforms([], AMD64) == ()
    with pytest.raises(UsageError):
        flags.platforms(["a/b/c/d/e"], AMD64)


def test_this_machine_has_a_platform() -> None:
    assert flags.local_platform().os == "linux"


@pytest.mark.parametrize("value", ["id=t,src={}", "id=t,source={}", "type=file,id=t,src={}", 'id=t,"src={}"', "ID=t,SRC={}"])
def test_a_secret_from_a_file(value: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x")
    assert flags.secret(value.format(path), {}) == SecretSource("t", file=path)


@pytest.mark.parametrize("value", ["id=t,env=TOKEN", "id=TOKEN", "id=t,type=env,src=TOKEN", "id=TOKEN,type=env"])
def test_a_secret_from_the_environment(value: str) -> None:
    source = flags.secret(value, {"TOKEN": "v"})
    assert source.value == b"v" and source.file is None


def test_a_bare_id_is_a_file_when_there_is_no_such_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("x")
    assert flags.secret("id=token", {}) == SecretSource("token", file=tmp_path / "token")
    assert flags.secret("id=token,type=file", {"token": "v"}) == SecretSource("token", file=tmp_path / "token")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("src=x", UsageError, "no id"),
        ("id=x,type=vault", UsageError, "unsupported secret type 'vault'"),
        ("id=x,sorce=y", UsageError, "unexpected key 'sorce'"),
        ("id=x,noequals", UsageError, "KEY=VALUE is needed"),
        ("id=x,env=NOPE", SecretError, "NOPE is not set"),
        ("id=x,src=/nope", SecretError, "No such file"),
        ("id=x,src=/", SecretError, "directory"),
        ("", UsageError, "invalid --secret"),
        ('"id=x', UsageError, "unexpected end of data"),
    ],
)
def test_a_secret_that_is_wrong(value: str, error: type[EngineError], text: str) -> None:
    with pytest.raises(error, match=text):
        flags.secret(value, {})


def test_a_secret_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"")
    os.truncate(path, flags.MAX_SECRET_SIZE + 1)
    with pytest.raises(SecretError, match="the limit is 512000"):
        flags.secret(f"id=x,src={path}", {})


def test_the_value_of_a_secret_is_not_in_its_repr() -> None:
    assert "hush" not in repr(flags.secret("id=t,env=T", {"T": "hush"}))


def test_ssh_agents_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    agent = socket.socket(socket.AF_UNIX)
    agent.bind("agent")
    for name in ("k1", "k2"):
        (tmp_path / name).write_text("key")
    assert flags.ssh("default", {"SSH_AUTH_SOCK": "agent"}) == SshSource("default", socket=tmp_path / "agent")
    assert flags.ssh("a=agent", {}) == SshSource("a", socket=tmp_path / "agent")
    assert flags.ssh("a=k1,k2", {}) == SshSource("a", keys=(tmp_path / "k1", tmp_path / "k2"))
    for value, error in (("default", UsageError), ("=k1", UsageError), ("a=agent,k1", UsageError), ("a=nope", SecretError)):
        with pytest.raises(error):
            flags.ssh(value, {})
    agent.close()


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ("type=registry", OutputRequest("registry")),
        ("type=image,push=true", OutputRequest("registry")),
        ("type=oci,dest=/o.tar", OutputRequest("oci", Path("/o.tar"))),
        ("type=oci,dest=/o,tar=false", OutputRequest("oci", Path("/o"), archive=False)),
        ("type=docker,dest=-", OutputRequest("docker")),
        ("type=docker", OutputRequest("docker")),
        ("type=tar,dest=/o.tar", OutputRequest("tar", Path("/o.tar"))),
        ("type=local,dest=/o", OutputRequest("local", Path("/o"))),
        ('type=local,"dest=/o,p"', OutputRequest("local", Path("/o,p"))),
        ("/o", OutputRequest("local", Path("/o"))),
        ("/a=b", OutputRequest("local", Path("/a=b"))),
        ("-", OutputRequest("tar")),
    ],
)
def test_outputs(value: str, output: OutputRequest) -> None:
    assert flags.outputs([value], push=False).outputs == (output,)


def test_a_destination_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert flags.outputs(["out"], push=False).outputs == (OutputRequest("local", tmp_path / "out"),)


def test_push_is_one_more_output_and_counts_once() -> None:
    assert flags.outputs([], push=True).outputs == (OutputRequest("registry"),)
    assert flags.outputs(["type=registry", "/o"], push=True).outputs == (
        OutputRequest("registry"), OutputRequest("local", Path("/o")))


def test_an_image_that_is_only_built_has_no_output() -> None:
    assert flags.outputs(["type=image"], push=False).outputs == ()


def test_what_an_output_says_of_the_image() -> None:
    value = 'type=registry,"name=a/b:1,c/d:2",compression=zstd,compression-level=3,annotation.Org.x=y'
    out = flags.outputs([value], push=False)
    assert out.names == ("a/b:1", "c/d:2")
    assert out.image == {"compression": "zstd", "compression-level": "3", "annotation.Org.x": "y"}


def test_booleans_of_an_output_are_read_as_such() -> None:
    value = "type=image,push=1,oci-mediatypes=F,force-compression=T,rewrite-timestamp=1,push-by-digest=t,name=a,name-canonical=1,store=0"
    out = flags.outputs([value], push=False)
    assert (out.outputs, out.names, out.by_digest) == ((OutputRequest("registry"),), ("a",), True)
    assert out.image == {"oci-mediatypes": "false", "force-compression": "true", "rewrite-timestamp": "true"}
    assert flags.outputs(["type=tar,dest=/o,rewrite-timestamp=true"], push=False).image == {"rewrite-timestamp": "true"}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (["dest=/o,x=y"], "unexpected key 'x'"),
        (["dest=/o,tar=true"], "no type"),
        (["type=ocy,dest=/o"], "unsupported output type 'ocy'"),
        (["type=local"], "a destination is needed"),
        (["type=oci,tar=false"], "a destination is needed"),
        (["type=oci,tar=maybe"], "invalid value 'maybe'"),
        (["type=local,dest=/o,tar=true,push=1"], "cannot be pushed"),
        (["type=tar,dest=/o,tar=false"], "takes no tar="),
        (["type=registry,dest=/o"], "takes no dest"),
        (["type=oci", "-"], "only one output"),
        (["type=registry,name=a", "/o"], "needs a build with one output"),
        (["type=oci,dest=/a,compression=gzip", "type=oci,dest=/b,compression=zstd"], "cannot differ in compression"),
        ([""], "invalid --output"),
        (["type=oci,oci-mediatype=false"], "unexpected key 'oci-mediatype'"),
        (["type=oci,oci-mediatypes=maybe"], "invalid value 'maybe' for oci-mediatypes"),
        (["type=oci,force-compression=x"], "invalid value 'x' for force-compression"),
        (["type=oci,dest=/a,oci-mediatypes=0", "type=oci,dest=/b,oci-mediatypes=1"], "cannot differ in oci-mediatypes"),
        (["type=tar,dest=/o,compression=zstd"], "type tar takes no compression"),
        (["type=tar,dest=/o,oci-mediatypes=true"], "type tar takes no oci-mediatypes"),
        (["type=local,dest=/o,annotation.a=b"], "type local takes no annotation.a"),
        (["type=local,dest=/o,name=a"], "type local takes no name"),
        (["type=image,unpack=true"], "unpack= is not supported"),
        (["type=image,store=1"], "store= is not supported"),
        (["type=image,dangling-name-prefix=x"], "dangling-name-prefix= is not supported"),
        (["type=registry,name=a,registry.insecure=true"], "registry.insecure= is not supported"),
        (["type=oci,push-by-digest=true"], "push-by-digest= needs an image that is pushed"),
        (["type=image,name=a,push-by-digest=true"], "push-by-digest= needs an image that is pushed"),
    ],
)
def test_outputs_that_are_wrong(values: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        flags.outputs(values, push=False)

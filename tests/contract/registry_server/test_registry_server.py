"""The distribution protocol, request by request (OCI distribution spec 1.1)."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import anyio
import pytest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
NONE = "sha256:" + "0" * 64


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def test_the_root_says_that_here_is_a_registry(client: Any) -> None:
    answer = await client("GET", "/v2/")
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert (await client("HEAD", "/v2/")).status == 200


async def test_a_blob_posted_whole_can_be_got_and_asked_for(client: Any) -> None:
    await client.blob("library/app", b"content")
    path = f"/v2/library/app/blobs/{sha256(b'content')}"
    got, asked = await client("GET", path), await client("HEAD", path)
    assert (got.status, got.body) == (200, b"content")
    assert (asked.status, asked.body, asked.headers["Content-Length"]) == (200, b"", "7")
    for answer in (got, asked):
        assert answer.headers["Docker-Content-Digest"] == sha256(b"content")
        assert answer.headers["Content-Type"] == "application/octet-stream"


async def test_an_upload_in_chunks_tells_after_each_how_far_it_is(client: Any) -> None:
    where = await client.upload()
    for chunk, told, range_header in ((b"01234", "0-4", "0-4"), (b"56789", "0-9", "5-9")):
        answer = await client("PATCH", where, chunk, Content_Range=range_header)
        assert (answer.status, answer.headers["Range"]) == (202, told)
        status = await client("GET", where)
        assert (status.status, status.headers["Range"], status.headers["Location"]) == (204, told, where)
    answer = await client("PUT", f"{where}?digest={sha256(b'0123456789abc')}", b"abc", Content_Range="10-12")
    assert answer.status == 201
    assert (await client("GET", answer.headers["Location"])).body == b"0123456789abc"
    assert (await client("GET", where)).code == "BLOB_UPLOAD_UNKNOWN"


async def test_an_upload_in_a_stream_without_ranges_or_length(client: Any) -> None:
    async def pieces() -> Any:
        for number in range(300):
            yield bytes([number % 256]) * 10_000

    whole = b"".join([bytes([n % 256]) * 10_000 for n in range(300)])
    where = await client.upload()
    assert (await client("PATCH", where, pieces())).status == 202
    assert (await client("PUT", f"{where}?digest={sha256(whole)}")).status == 201
    assert (await client("GET", f"/v2/a/blobs/{sha256(whole)}")).body == whole


@pytest.mark.parametrize("header", ["5-9", "0-4", "4-9", "banana", "9-5"])
async def test_a_chunk_out_of_order_is_refused_and_changes_nothing(client: Any, header: str) -> None:
    where = await client.upload()
    await client("PATCH", where, b"012", Content_Range="0-2")
    answer = await client("PATCH", where, b"xxxxx", Content_Range=header)
    assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID")
    assert (answer.headers["Range"], answer.headers["Location"]) == ("0-2", where)
    assert (await client("PUT", f"{where}?digest={sha256(b'012')}")).status == 201


async def test_a_chunk_whose_range_and_length_differ_is_refused(client: Any) -> None:
    answer = await client("PATCH", await client.upload(), b"01234", Content_Range="0-9")
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")


async def test_the_wrong_digest_ends_an_upload(client: Any) -> None:
    where = await client.upload()
    answer = await client("PUT", f"{where}?digest={NONE}", b"content")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert (await client("GET", where)).status == 404
    assert (await client("HEAD", f"/v2/a/blobs/{NONE}")).status == 404
    assert (await client("POST", f"/v2/a/blobs/uploads/?digest={NONE}", b"content")).code == "DIGEST_INVALID"


async def test_sha512_is_understood(client: Any) -> None:
    digest = "sha512:" + hashlib.sha512(b"content").hexdigest()
    where = await client.upload()
    assert (await client("PUT", f"{where}?digest={digest}", b"content")).status == 201
    assert (await client("GET", f"/v2/a/blobs/{digest}")).body == b"content"


async def test_an_upload_can_be_cancelled_and_is_then_unknown(client: Any) -> None:
    where = await client.upload()
    assert (await client("DELETE", where)).status == 204
    for method in ("GET", "PATCH", "DELETE"):
        assert (await client(method, where)).code == "BLOB_UPLOAD_UNKNOWN"


async def test_an_upload_belongs_to_its_repository(client: Any) -> None:
    where = await client.upload("a")
    assert (await client("PATCH", where.replace("/a/", "/b/"), b"x")).code == "BLOB_UPLOAD_UNKNOWN"


async def test_a_mount_gives_a_repository_what_another_one_has(client: Any) -> None:
    await client.blob("from", b"content")
    digest = sha256(b"content")
    assert (await client("HEAD", f"/v2/to/blobs/{digest}")).status == 404
    answer = await client("POST", f"/v2/to/blobs/uploads/?mount={digest}&from=from")
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
    assert (await client("GET", answer.headers["Location"])).body == b"content"


@pytest.mark.parametrize("query", [f"mount={NONE}&from=from", f"mount={sha256(b'content')}&from=other",
                                   f"mount={sha256(b'content')}"])
async def test_a_mount_that_is_not_possible_becomes_an_upload(client: Any, query: str) -> None:
    await client.blob("from", b"content")
    answer = await client("POST", f"/v2/to/blobs/uploads/?{query}")
    assert answer.status == 202
    assert (await client("PUT", f"{answer.headers['Location']}?digest={sha256(b'content')}", b"content")).status == 201


async def test_a_deleted_blob_is_gone_here_and_stays_elsewhere(client: Any) -> None:
    for repository in ("a", "b"):
        await client.blob(repository, b"content")
    path = f"blobs/{sha256(b'content')}"
    assert (await client("DELETE", f"/v2/a/{path}")).status == 202
    assert (await client("DELETE", f"/v2/a/{path}")).code == "BLOB_UNKNOWN"
    assert (await client("GET", f"/v2/a/{path}")).code == "BLOB_UNKNOWN"
    assert (await client("GET", f"/v2/b/{path}")).body == b"content"


@pytest.mark.parametrize(("asked", "status", "told", "body"), [
    ("bytes=2-5", 206, "bytes 2-5/10", b"2345"), ("bytes=7-", 206, "bytes 7-9/10", b"789"),
    ("bytes=-3", 206, "bytes 7-9/10", b"789"), ("bytes=3-99", 206, "bytes 3-9/10", b"3456789"),
])  # fmt: skip
async def test_part_of_a_blob(client: Any, asked: str, status: int, told: str, body: bytes) -> None:
    await client.blob("a", b"0123456789")
    answer = await client("GET", f"/v2/a/blobs/{sha256(b'0123456789')}", Range=asked)
    assert (answer.status, answer.headers["Content-Range"], answer.body) == (status, told, body)


async def test_a_range_beyond_the_end(client: Any) -> None:
    await client.blob("a", b"0123456789")
    assert (await client("GET", f"/v2/a/blobs/{sha256(b'0123456789')}", Range="bytes=10-")).status == 416


async def test_a_blob_that_says_it_is_compressed_is_stored_as_it_came(client: Any) -> None:
    import gzip

    data = gzip.compress(b"zeros" * 100)
    await client.blob("a", data, Content_Encoding="gzip")
    assert (await client("GET", f"/v2/a/blobs/{sha256(data)}")).body == data


async def test_a_manifest_by_tag_and_by_digest(client: Any) -> None:
    raw = await client.image("a/b/c", "v1")
    for reference in ("v1", sha256(raw)):
        for method, body in (("GET", raw), ("HEAD", b"")):
            answer = await client(method, f"/v2/a/b/c/manifests/{reference}")
            assert (answer.status, answer.body) == (200, body)
            assert answer.headers["Content-Type"] == MANIFEST
            assert answer.headers["Docker-Content-Digest"] == sha256(raw)
            assert answer.headers["Content-Length"] == str(len(raw))


async def test_a_manifest_put_answers_where_it_is(client: Any) -> None:
    raw = await client.image("a", "")
    answer = await client("PUT", "/v2/a/manifests/again", raw, Content_Type=MANIFEST)
    assert answer.headers["Docker-Content-Digest"] == sha256(raw)
    assert (await client("GET", answer.headers["Location"])).body == raw


async def test_a_manifest_that_points_to_what_is_not_there(client: Any) -> None:
    raw = await client.image("a", "v1")
    answer = await client("PUT", "/v2/b/manifests/v1", raw, Content_Type=MANIFEST)
    assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")
    value = json.loads(raw)
    value["layers"][0]["size"] += 1
    answer = await client("PUT", "/v2/a/manifests/v2", json.dumps(value), Content_Type=MANIFEST)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


async def test_a_layer_that_may_not_be_distributed_need_not_be_there(client: Any) -> None:
    value = json.loads(await client.image("a", "v1"))
    value["layers"].append({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": NONE, "size": 1,
                            "urls": ["https://example.invalid/"]})
    assert (await client("PUT", "/v2/a/manifests/v2", json.dumps(value), Content_Type=MANIFEST)).status == 201


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"schemaVersion":1}', b'{"schemaVersion":2,"config":{}}',
                                  b'{"schemaVersion":2,"config":{"digest":"sha256:00","size":1},"layers":[]}'])
async def test_a_manifest_that_is_none(client: Any, body: bytes) -> None:
    answer = await client("PUT", "/v2/a/manifests/v1", body, Content_Type=MANIFEST)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


async def test_a_manifest_whose_digest_is_another(client: Any) -> None:
    raw = await client.image("a", "v1")
    answer = await client("PUT", f"/v2/a/manifests/{NONE}", raw, Content_Type=MANIFEST)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


async def test_a_manifest_may_have_four_megabytes_and_no_more(client: Any) -> None:
    value = json.loads(await client.image("a", "v1"))
    value["annotations"] = {"a": ""}
    value["annotations"]["a"] = "x" * ((4 << 20) - len(json.dumps(value)))
    assert (await client("PUT", "/v2/a/manifests/big", json.dumps(value).encode(), Content_Type=MANIFEST)).status == 201
    value["annotations"]["a"] += "x"
    too_large = json.dumps(value).encode()

    async def unannounced() -> Any:
        yield too_large

    for body in (too_large, unannounced()):
        assert (await client("PUT", "/v2/a/manifests/bigger", body, Content_Type=MANIFEST)).status == 413


async def test_an_index_needs_its_manifests_and_keeps_its_type(client: Any) -> None:
    raw = await client.image("a", "")
    entry = {"mediaType": MANIFEST, "digest": sha256(raw), "size": len(raw)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    assert (await client("PUT", "/v2/b/manifests/all", index, Content_Type=INDEX)).code == "MANIFEST_BLOB_UNKNOWN"
    assert (await client("PUT", "/v2/a/manifests/all", index, Content_Type=INDEX)).status == 201
    answer = await client("GET", "/v2/a/manifests/all")
    assert (answer.body, answer.headers["Content-Type"]) == (index, INDEX)


async def test_docker_manifests_and_lists(client: Any) -> None:
    manifest = "application/vnd.docker.distribution.manifest.v2+json"
    value = json.loads(await client.image("a", "v1"))
    value["mediaType"] = manifest
    value["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    raw = json.dumps(value).encode()
    assert (await client("PUT", "/v2/a/manifests/docker", raw, Content_Type=manifest)).status == 201
    assert (await client("GET", "/v2/a/manifests/docker")).headers["Content-Type"] == manifest
    kind = "application/vnd.docker.distribution.manifest.list.v2+json"
    entry = {"mediaType": manifest, "digest": sha256(raw), "size": len(raw)}
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]})
    assert (await client("PUT", "/v2/a/manifests/list", index, Content_Type=kind)).status == 201


async def test_a_tag_moves_and_the_old_manifest_stays(client: Any) -> None:
    old = await client.image("a", "v1", b"old")
    new = await client.image("a", "v1", b"new")
    assert (await client("GET", "/v2/a/manifests/v1")).body == new
    assert (await client("GET", f"/v2/a/manifests/{sha256(old)}")).body == old


async def test_deleting_a_tag_keeps_the_manifest_and_deleting_that_takes_all_tags(client: Any) -> None:
    raw = await client.image("a", "v1")
    await client.image("a", "v2")
    other = await client.image("a", "other", b"other")
    assert (await client("DELETE", "/v2/a/manifests/v1")).status == 202
    assert (await client("DELETE", "/v2/a/manifests/v1")).code == "MANIFEST_UNKNOWN"
    assert (await client("GET", f"/v2/a/manifests/{sha256(raw)}")).status == 200
    assert (await client("DELETE", f"/v2/a/manifests/{sha256(raw)}")).status == 202
    assert (await client("GET", "/v2/a/manifests/v2")).code == "MANIFEST_UNKNOWN"
    assert (await client("DELETE", f"/v2/a/manifests/{sha256(raw)}")).code == "MANIFEST_UNKNOWN"
    assert (await client("GET", "/v2/a/tags/list")).json == {"name": "a", "tags": ["other"]}
    assert (await client("GET", "/v2/a/manifests/other")).body == other


async def test_tags_come_in_order_and_in_pages(client: Any) -> None:
    assert (await client("GET", "/v2/a/tags/list")).code == "NAME_UNKNOWN"
    for tag in ("c", "a", "b", "B", "d"):
        await client.image("a", tag)
    assert (await client("GET", "/v2/a/tags/list")).json["tags"] == ["B", "a", "b", "c", "d"]
    seen, path = [], "/v2/a/tags/list?n=2"
    while path:
        answer = await client("GET", path)
        seen.append(answer.json["tags"])
        link = answer.headers.get("Link", "")
        path = link[1 : link.index(">")] if link else ""
        assert not link or link.endswith('; rel="next"')
    assert seen == [["B", "a"], ["b", "c"], ["d"]]
    assert (await client("GET", "/v2/a/tags/list?last=b")).json["tags"] == ["c", "d"]
    assert (await client("GET", "/v2/a/tags/list?n=0")).json["tags"] == []
    assert (await client("GET", "/v2/a/tags/list?n=-1")).status == 400


async def test_the_catalog_has_repositories_with_manifests(client: Any) -> None:
    for name in ("b/nested/deep", "b", "a-b"):
        await client.image(name, "v1")
    await client.blob("only-a-blob", b"x")
    assert (await client("GET", "/v2/_catalog")).json == {"repositories": ["a-b", "b", "b/nested/deep"]}
    answer = await client("GET", "/v2/_catalog?n=1&last=a-b")
    assert answer.json == {"repositories": ["b"]}
    assert 'rel="next"' in answer.headers["Link"]


async def test_referrers_of_a_manifest_even_before_it_is_there(client: Any) -> None:
    subject = {"mediaType": MANIFEST, "digest": NONE, "size": 7}
    first = await client.image("a", "", subject=subject, artifactType="application/x-sbom", annotations={"k": "v"})
    second = await client.image("a", "", b"other", subject=subject)
    answer = await client("PUT", f"/v2/a/manifests/{sha256(first)}", first, Content_Type=MANIFEST)
    assert answer.headers["OCI-Subject"] == NONE
    listed = await client("GET", f"/v2/a/referrers/{NONE}")
    assert listed.headers["Content-Type"] == INDEX
    assert listed.json["schemaVersion"] == 2
    by_digest = {d["digest"]: d for d in listed.json["manifests"]}
    assert by_digest == {
        sha256(first): {"mediaType": MANIFEST, "digest": sha256(first), "size": len(first), "annotations": {"k": "v"},
                        "artifactType": "application/x-sbom"},
        sha256(second): {"mediaType": MANIFEST, "digest": sha256(second), "size": len(second), "artifactType": CONFIG},
    }
    filtered = await client("GET", f"/v2/a/referrers/{NONE}?artifactType=application/x-sbom")
    assert [d["digest"] for d in filtered.json["manifests"]] == [sha256(first)]
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    await client("DELETE", f"/v2/a/manifests/{sha256(first)}")
    assert [d["digest"] for d in (await client("GET", f"/v2/a/referrers/{NONE}")).json["manifests"]] == [sha256(second)]


async def test_an_index_can_refer_too(client: Any) -> None:
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "artifactType": "x/y",
                        "subject": {"mediaType": MANIFEST, "digest": NONE, "size": 7}}).encode()
    assert (await client("PUT", f"/v2/a/manifests/{sha256(index)}", index, Content_Type=INDEX)).headers["OCI-Subject"] == NONE
    assert (await client("GET", f"/v2/a/referrers/{NONE}")).json["manifests"][0]["artifactType"] == "x/y"


async def test_nothing_refers_to_what_nobody_knows(client: Any) -> None:
    answer = await client("GET", f"/v2/never/seen/referrers/{NONE}")
    assert (answer.status, answer.json["manifests"]) == (200, [])


@pytest.mark.parametrize(("method", "path", "status", "code"), [
    ("GET", f"/v2/a/blobs/{NONE}", 404, "BLOB_UNKNOWN"),
    ("GET", "/v2/a/blobs/sha256:zz", 400, "DIGEST_INVALID"),
    ("GET", "/v2/a/blobs/md5:00", 400, "DIGEST_INVALID"),
    ("GET", "/v2/A/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/a%2f..%2f..%2fb/manifests/v1", 400, "NAME_INVALID"),
    ("POST", "/v2/a/_tags/blobs/uploads/", 400, "NAME_INVALID"),
    ("GET", f"/v2/{'a' * 256}/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/a/manifests/v1", 404, "MANIFEST_UNKNOWN"),
    ("GET", "/v2/a/manifests/.hidden", 400, "TAG_INVALID"),
    ("PUT", f"/v2/a/manifests/{'t' * 129}", 400, "TAG_INVALID"),
    ("GET", "/v2/a/manifests/..%2f..%2fx", 400, "TAG_INVALID"),
    ("GET", f"/v2/a/manifests/{NONE}", 404, "MANIFEST_UNKNOWN"),
    ("GET", "/v2/a/referrers/x", 400, "DIGEST_INVALID"),
    ("PATCH", "/v2/a/blobs/uploads/..%2f..%2fx", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("PATCH", f"/v2/a/blobs/uploads/{'0' * 32}", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("PUT", f"/v2/a/blobs/uploads/{'0' * 32}", 400, "DIGEST_INVALID"),
    ("POST", "/v2/a/blobs/uploads/?digest=x", 400, "DIGEST_INVALID"),
    ("POST", "/v2/a/blobs/uploads/?mount=x&from=a", 400, "DIGEST_INVALID"),
    ("POST", f"/v2/a/blobs/uploads/?mount={NONE}&from=../a", 400, "NAME_INVALID"),
    ("POST", "/v2/a/manifests/v1", 405, "UNSUPPORTED"),
    ("GET", "/v1/", 404, "UNKNOWN"),
    ("GET", "/token", 404, "UNKNOWN"),
])  # fmt: skip
async def test_what_is_wrong_is_said_as_the_specification_says_it(
    client: Any, method: str, path: str, status: int, code: str
) -> None:
    import yarl

    answer = await client(method, f"http://{client.server.address}{path}")
    assert (answer.status, answer.code) == (status, code)
    raw = await client.session.request(method, yarl.URL(f"http://{client.server.address}{path}", encoded=True))
    assert raw.status == status


async def test_the_log_tells_what_was_asked_and_how_much_moved(client: Any) -> None:
    data = os.urandom(300_000)
    await client.blob("a", data)
    await client("GET", f"/v2/a/blobs/{sha256(data)}")
    await client("HEAD", f"/v2/a/blobs/{sha256(data)}")
    await client("GET", f"/v2/a/blobs/{sha256(data)}", Range="bytes=100-")
    found = [(r.method, r.status, r.received, r.sent) for r in client.server.requests]
    assert found == [("POST", 201, 300_000, 0), ("GET", 200, 0, 300_000), ("HEAD", 200, 0, 0), ("GET", 206, 0, 299_900)]
    assert client.server.requests[0].path == "/v2/a/blobs/uploads/"


async def test_a_read_only_registry_gives_and_does_not_take(serve: Any) -> None:
    writer = await serve()
    raw = await writer.image("a", "v1")
    reader = await serve(read_only=True)
    assert (await reader("GET", "/v2/a/manifests/v1")).body == raw
    for method, path in (("POST", "/v2/a/blobs/uploads/"), ("PUT", "/v2/a/manifests/v1"), ("DELETE", "/v2/a/manifests/v1")):
        answer = await reader(method, path)
        assert (answer.status, answer.code) == (405, "UNSUPPORTED")


async def test_two_registries_over_one_directory_see_the_same(serve: Any) -> None:
    one, two = await serve(), await serve()
    raw = await one.image("a", "v1")
    assert (await two("GET", "/v2/a/manifests/v1")).body == raw
    where = await one.upload()
    await one("PATCH", where, b"half ")
    assert (await two("GET", where)).headers["Range"] == "0-4"
    assert (await two("PATCH", where, b"whole")).status == 202
    assert (await one("PUT", f"{where}?digest={sha256(b'half whole')}")).status == 201


async def test_many_at_once_push_the_same_and_nothing_is_left_over(client: Any, tmp_path: Path) -> None:
    import anyio

    layers = [os.urandom(100_000) for _ in range(3)]

    async def push(number: int) -> None:
        await client.image(f"repository{number % 2}", f"tag{number}", layers[number % 3])

    async with anyio.create_task_group() as group:
        for number in range(24):
            group.start_soon(push, number)
    for number in range(24):
        raw = (await client("GET", f"/v2/repository{number % 2}/manifests/tag{number}")).json
        assert raw["layers"][0]["digest"] == sha256(layers[number % 3])
    root = tmp_path / "registry"
    assert [p for p in root.rglob("_uploads/*")] == []
    assert list((root / "tmp").iterdir()) == []
    for blob in (root / "blobs" / "sha256").iterdir():
        assert sha256(blob.read_bytes()) == f"sha256:{blob.name}"


async def test_a_full_disk_is_said_and_the_upload_can_go_on(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    where = await client.upload()
    await client("PATCH", where, b"first ")
    real = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        real(descriptor, data[:3], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        answer = await client("PATCH", where, b"second")
    assert answer.status == 507
    assert "No space left" in answer.json["errors"][0]["message"]
    assert (await client("GET", where)).headers["Range"] == "0-5"
    await client("PATCH", where, b"second", Content_Range="6-11")
    assert (await client("PUT", f"{where}?digest={sha256(b'first second')}")).status == 201


async def test_a_client_that_goes_in_the_middle_of_an_upload_is_no_fault_of_the_registry(
        client: Any, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    place = await client.upload()
    host, port = client.server.address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode() + bytes(5000))
        with anyio.fail_after(10):
            while not any(entry.received for entry in client.server.requests):
                await client("GET", "/v2/")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    patch = next(entry for entry in client.server.requests if entry.method == "PATCH")
    with anyio.fail_after(10):
        while (await client("GET", place)).headers["Range"] != "0-4999" and not caplog.records:
            pass
        await client("GET", "/v2/")
    assert patch.received == 5000
    assert [record.getMessage() for record in caplog.records] == []

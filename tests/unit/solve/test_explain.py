"""Why a step was not found: one sentence for each thing that differs from the most similar earlier result."""

from __future__ import annotations

from engine.cache.base import Record
from engine.image.digest import Digest
from engine.layer.entries import Entry
from engine.solve.copying.copies import Copies
from engine.solve.copying.digest import MOST_LISTED, Dependence
from engine.solve.copying.request import Copied
from engine.solve.explain import BY, MOST, reasons

NOW = {BY: "content", "parent": "image debian:12 sha256:aa", "command": "/bin/sh, -c, make", "env V": "1", "cwd": "/", "user": ""}


def earlier(*, kind: str = "content", **changes: str | None) -> Record:
    ingredients = {BY: kind, **{k: v for k, v in (NOW | {k.replace("_", " "): v for k, v in changes.items()}).items() if v is not None}}
    ingredients[BY] = kind
    return Record(Digest.of(repr(ingredients).encode()), None, 0.0, "RUN make", ingredients)


def test_nothing_is_known() -> None:
    assert reasons(NOW, []) == ("there is no earlier result of an instruction like this one",)


def test_other_kinds_of_keys_are_not_compared() -> None:
    assert reasons(NOW, [earlier(kind="definition")]) == reasons(NOW, [])


def test_what_has_little_in_common_is_not_compared() -> None:
    other = earlier(parent="x y", command="other", env_V="2", cwd="/x", user="u")
    assert reasons(NOW, [other]) == reasons(NOW, [])


def test_the_base_image_is_named_with_both_digests() -> None:
    assert reasons(NOW, [earlier(parent="image debian:12 sha256:bb")]) == (
        "image debian:12 changed from sha256:bb to sha256:aa",)


def test_another_step_before_it() -> None:
    now = NOW | {"parent": "RUN a sha256:aa"}
    assert reasons(now, [earlier(parent="RUN a sha256:bb")]) == ("the result of RUN a changed",)
    assert reasons(now, [earlier(parent="RUN b sha256:bb")]) == ("it comes after RUN a and no longer after RUN b",)


def test_variables_are_named_and_their_values_are_not_told() -> None:
    assert reasons(NOW, [earlier(env_V="secret")]) == ("variable V has another value",)
    assert reasons(NOW, [earlier(env_V=None)]) == ("variable V is new",)
    assert reasons(NOW, [earlier(env_W="2")]) == ("variable W is gone",)


def test_short_values_of_other_things_are_told() -> None:
    assert reasons(NOW, [earlier(cwd="/srv")]) == ("the working directory changed from /srv to /",)


def test_the_most_similar_result_counts() -> None:
    records = [earlier(env_V="2", cwd="/x"), earlier(cwd="/y"), earlier(cwd="/z")]
    assert reasons(NOW, records) == ("the working directory changed from /y to /",)


def test_files_are_named_and_their_digest_is_not() -> None:
    now = NOW | {"files": "1", "file a": "1", "file b": "1", "file new": "1"}
    before = earlier(files="2", **{"file a": "1", "file b": "2", "file old": "1"})
    assert reasons(now, [before]) == ("b changed", "new is new", "old is gone")


def test_files_of_mounts_are_told_apart_from_copied_ones() -> None:
    now = NOW | {"mount 0 files": "1", "mount 0 file a": "1"}
    assert reasons(now, [earlier(**{"mount 0 files": "2", "mount 0 file a": "2"})]) == ("a changed",)


def test_a_digest_of_files_is_told_when_they_are_not_listed() -> None:
    assert reasons(NOW | {"files": "1"}, [earlier(files="2")]) == ("the copied files changed from 2 to 1",)


def test_many_reasons_are_counted() -> None:
    now = NOW | {f"file {n:02}": "1" for n in range(MOST + 5)}
    assert reasons(now, [earlier(**{f"file {n:02}": "2" for n in range(MOST + 5)})])[-1] == "and 5 more"
    assert len(reasons(now, [earlier()])) == MOST + 1


def test_equal_ingredients_mean_that_the_result_is_gone() -> None:
    assert reasons(NOW, [earlier()]) == ("its earlier result is gone, or may not be used",)


def copied(path: bytes, digest: str = "1") -> Copied:
    return Copied(Entry(path, "file", 0o644, size=1, digest=digest * 64), path)


def listed(copy: list[Copied]) -> dict[str, str]:
    on = Dependence(Copies(copy))
    on.digest({})
    return on.listing()


def test_a_listing_has_each_file_and_shows_which_changed() -> None:
    one = listed([copied(b"a/b"), copied(b"a/c")])
    two = listed([copied(b"a/b"), copied(b"a/c", "2")])
    assert list(one) == ["a/b", "a/c"]
    assert {name for name in one if one[name] != two[name]} == {"a/c"}


def test_a_long_listing_has_directories_in_place_of_files() -> None:
    many = [copied(b"pkg/%d/f%d" % (n % 10, n)) for n in range(MOST_LISTED + 1)]
    names = listed(many)
    assert sorted(names) == [f"pkg/{n}" for n in range(10)]
    changed = listed([*many[:-1], many[-1]._replace(entry=many[-1].entry._replace(mode=0o600))])
    assert [name for name in names if names[name] != changed[name]] == [f"pkg/{MOST_LISTED % 10}"]


def test_a_flat_folder_of_many_files_is_one_name() -> None:
    names = listed([copied(b"d/f%d" % n) for n in range(MOST_LISTED + 1)])
    assert list(names) == ["d"]


def test_a_file_that_is_copied_twice_and_a_crowded_root_end_too() -> None:
    twice = [copied(b"f%d" % (n % 600)) for n in range(1200)]
    assert list(listed(twice)) == ["."]
    crowd = [copied(b"f%d" % n) for n in range(MOST_LISTED + 1)]
    assert list(listed(crowd)) == ["."]


def test_deep_trees_are_listed_as_deep_as_the_limit_allows() -> None:
    deep = [copied(b"p%d/s%d/t%d/f" % (n % 20, n % 400, n)) for n in range(4000)]
    names = listed(deep)
    assert len(names) == 400 and all(name.count("/") == 1 for name in names)

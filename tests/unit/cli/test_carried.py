"""--cache-mounts-from and --cache-mounts-to."""

from __future__ import annotations

import pytest

from engine.cli import carried
from engine.errors import UsageError
from engine.image.reference import Reference


def test_a_reference_is_what_they_take_and_the_form_of_a_cache_too() -> None:
    wanted = (Reference.parse("reg.example/mounts:main"), Reference.parse("reg.example/other"))
    assert carried.sources(["reg.example/mounts:main", "type=registry,ref=reg.example/other", "reg.example/mounts:main"]) == wanted
    assert carried.sources([]) == ()
    assert carried.target(["reg.example/mounts:main"]) == wanted[0]
    assert carried.target([]) is None


@pytest.mark.parametrize("value", ["type=local,dest=dir", "type=registry", "dest=dir", f"reg.example/a@sha256:{'0' * 64}", "A B"])
def test_what_is_no_repository_is_an_error(value: str) -> None:
    with pytest.raises(UsageError):
        carried.target([value])
    with pytest.raises(UsageError):
        carried.sources([value])


def test_one_place_is_written() -> None:
    assert carried.target(["reg.example/a", "reg.example/a"]) == Reference.parse("reg.example/a")
    with pytest.raises(UsageError):
        carried.target(["reg.example/a", "reg.example/b"])

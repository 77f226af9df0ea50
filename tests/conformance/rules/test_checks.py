"""Build checks that need base images, alone (`--check`) and in builds; and the build arguments that govern checks."""

from __future__ import annotations

import re
from collections.abc import Callable

import anyio
import pytest

from engine.errors import DockerfileError, EngineError, PlatformError, UsageError
from engine.progress.events import Warned
from engine.solve import check as checking

pytestmark = pytest.mark.system

Checked = tuple[int, list[tuple[str, str, int]]]


@pytest.fixture
def check(shop) -> Callable[..., Checked]:
    """Checks a Dockerfile: how many warnings count, and what was said of what rule and line."""

    def check(dockerfile: str, **options) -> Checked:
        events: list[object] = []

        async def run() -> int:
            return await shop.engine.check(shop.request(shop.context({}, dockerfile), **options), sink=events.append)

        found = shop.portal.call(run)
        assert all(isinstance(event, Warned) for event in events), "nothing but warnings"
        return found, [(event.rule, event.message, event.line) for event in events]

    return check


@pytest.mark.rule(123)
def test_variables_are_held_against_those_of_the_base(check) -> None:
    count, said = check("FROM @rich\nLABEL a=$PATH b=$PATHH c=$nowhere\n")
    assert (count, said) == (2, [("UndefinedVar", "Usage of undefined variable '$PATHH' (did you mean $PATH?)", 2),
                                 ("UndefinedVar", "Usage of undefined variable '$nowhere'", 2)])  # fmt: skip
    assert check("# check=skip=UndefinedVar\nFROM @rich\nLABEL b=$PATHH\n") == (0, [])


@pytest.mark.rule(123)
def test_the_base_is_the_one_that_a_build_argument_names(check, shop) -> None:
    dockerfile = "ARG BASE=127.0.0.1:1/no/such:1\nFROM ${BASE}\nLABEL a=$PATH b=$nowhere\n"
    count, said = check(dockerfile, args={"BASE": f"{shop.registry.address}/conf/rich:1"})
    assert (count, [rule for rule, _, _ in said]) == (1, ["UndefinedVar"])


@pytest.mark.rule(123)
def test_stages_that_nobody_needs_are_checked_too(check) -> None:
    assert check("FROM @rich AS a\nLABEL b=$nowhere\nFROM scratch\nCOPY f /\n")[0] == 1


@pytest.mark.rule(123)
def test_a_base_for_another_platform_is_told_of_and_not_built_on(shop, check) -> None:
    dockerfile = "FROM --platform=linux/s390x @busybox AS s390x\nCOPY <<E /e\nE\n"
    base = f"{shop.registry.address}/conf/busybox:1"
    message = f'Base image {base} was pulled with platform "linux/amd64", expected "linux/s390x" for current build'
    assert check(dockerfile) == (1, [("InvalidBaseImagePlatform", message, 1)])
    assert check(dockerfile.replace("FROM", "# check=skip=InvalidBaseImagePlatform\nFROM")) == (0, [])
    error = shop.fails(dockerfile)
    assert isinstance(error, PlatformError)
    assert (error.message, error.hint) == (f"{base}: is for linux/amd64, not for linux/s390x",
                                           "build with --platform linux/amd64, or write FROM --platform=linux/amd64")


def test_a_program_of_another_processor_gets_a_hint(shop) -> None:
    header = bytes.fromhex("7f454c46020101000000000000000000" "0200f300" "01000000") + bytes(40)  # ELF, 64 bits, RISC-V
    error = shop.fails('FROM @busybox\nCOPY --chmod=755 p /p\nRUN ["/p"]\n', {"p": header})
    assert "exec format error" in "".join(error.output)
    assert "binfmt_misc" in (error.hint or "")
    assert "binfmt_misc" not in (shop.fails("FROM @busybox\nRUN false\n").hint or "")


@pytest.mark.rule(123)
def test_an_index_without_the_platform_is_an_error_of_the_build(shop, check) -> None:
    dockerfile = f"FROM --platform=linux/s390x {shop.registry.address}/conf/multi:1 AS s390x\n"
    assert "no match for platform linux/s390x" in shop.fails(dockerfile).message
    count, said = check(dockerfile)
    assert count == 0
    assert "no match for platform linux/s390x" in said[0][1]


@pytest.mark.rule(123)
def test_without_the_base_the_rest_is_checked(check) -> None:
    count, said = check("FROM 127.0.0.1:1/no/such:1\nLABEL a=$nowhere\nCMD echo\n")
    assert count == 1
    assert [rule for rule, _, _ in said] == ["JSONArgsRecommended", ""]
    assert said[1][1].startswith("cannot read base image 127.0.0.1:1/no/such:1, so what depends on it is not checked: ")


@pytest.mark.rule(123)
def test_a_registry_that_does_not_answer_is_not_waited_for(shop, monkeypatch) -> None:
    monkeypatch.setattr(checking, "PATIENCE", 0.1)
    events: list[Warned] = []

    async def run() -> int:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as silent:
            port = silent.extra(anyio.abc.SocketAttribute.local_port)
            folder = shop.context({}, f"FROM 127.0.0.1:{port}/no/such:1\nCMD echo\n")
            with anyio.fail_after(30):
                return await shop.engine.check(shop.request(folder), sink=events.append)

    assert shop.portal.call(run) == 1
    assert "no answer within 0.1 seconds" in events[-1].message


@pytest.mark.rule(123)
@pytest.mark.parametrize(("dockerfile", "message"), [
    ("FROM @rich\nCOPY f ${nowhere:?needed}/\n", "needed"), ("FROM @rich AS a\nCOPY --from=b f /\nFROM scratch AS b\nFROM a\n", "cannot copy from stage"),
    ("FROM @rich\nRUN --mount=type=bnd true\n", "bnd"), ("FROM @rich\nRUN --network=none --security=insecure true\n", "not supported"),
])  # fmt: skip
def test_what_would_end_the_build_before_its_first_step_ends_the_check(check, dockerfile: str, message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        check(dockerfile)
    assert caught.value.location


@pytest.mark.rule(123)
def test_a_build_argument_takes_the_place_of_the_directive(shop, check) -> None:
    assert check("FROM scratch\nCMD echo\n", args={"BUILDKIT_DOCKERFILE_CHECK": "skip=JSONArgsRecommended"}) == (0, [])
    assert check("# check=skip=all\nFROM scratch\nCMD echo\n", args={"BUILDKIT_DOCKERFILE_CHECK": ""})[0] == 1
    error = shop.fails("# check=skip=all\nFROM scratch\nCMD echo\n", args={"BUILDKIT_DOCKERFILE_CHECK": "error=true"})
    assert isinstance(error, DockerfileError)
    assert "lint violation found for rules: JSONArgsRecommended" in error.message
    wrong = shop.fails("FROM scratch\nCOPY <<E /e\nE\n", args={"BUILDKIT_DOCKERFILE_CHECK": "nonsense"})
    assert isinstance(wrong, UsageError)
    assert re.match("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: ", wrong.message)

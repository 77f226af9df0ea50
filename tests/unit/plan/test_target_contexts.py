"""Named contexts that stand for a stage of the same Dockerfile, and the names by which contexts are found."""

from __future__ import annotations

import pytest

from engine.dockerfile.parser import parse
from engine.errors import DockerfileError
from engine.image.config import ImageConfig, RuntimeConfig
from engine.image.platform import Platform
from engine.plan.base import CopyOp, Plan, RunOp, Source
from engine.plan.build import ImageKey, PlanInputs, images_wanted, make_plan
from engine.plan.stages import GraphInputs, build_graph

AMD64 = Platform("linux", "amd64")


def plan(text: str, target: str = "", config: RuntimeConfig | None = None, **contexts: str) -> Plan:
    graph = build_graph(parse(text.encode()), GraphInputs(target, {}, AMD64, AMD64, contexts))
    configs: dict[ImageKey, ImageConfig] = {}
    while wanted := images_wanted(graph, configs):
        configs |= {key: ImageConfig(key[1], config or RuntimeConfig()) for key in wanted}
    return make_plan(graph, configs, PlanInputs(contexts=contexts))


def sources(made: Plan) -> list[Source]:
    return [source for step in made.steps for source in step.sources if source.context or source.state]


@pytest.mark.parametrize("stage", ["tools", "TOOLS", "0"])
def test_from_copy_and_mounts_mean_the_stage(stage: str) -> None:
    made = plan("FROM a AS tools\nRUN 1\nFROM x\nCOPY --from=x /f /\nRUN --mount=from=x,target=/t 2\n", x=f"target:{stage}")
    assert [i.name for i in made.images] == ["a"]
    assert (made.steps[1].parent, sources(made)) == ("0.1", [Source("0.1"), Source("0.1")])


def test_a_stage_below_comes_first() -> None:
    made = plan("FROM a\nCOPY --from=x /f /\nFROM b AS later\nRUN 1\n", target="0", x="target:later")
    assert [(s.id, s.needs) for s in made.steps] == [("1.1", ("image:0",)), ("0.1", ("image:1", "1.1"))]


def test_a_stage_goes_on_where_one_below_ends_with_its_platform() -> None:
    text = "FROM x AS first\nRUN 1\nCOPY --from=c f /\nFROM --platform=linux/arm64 b AS later\nENV e=1\n"
    made = plan(text, target="first", x="target:later")
    assert {image.platform.architecture for image in made.images} == {"arm64"}
    assert (made.platform.architecture, made.steps[0].parent) == ("arm64", "image:0")
    assert isinstance(made.steps[0].op, RunOp)
    assert dict(made.steps[0].op.env)["e"] == "1"


def test_it_takes_the_place_of_an_image_and_of_another_stage() -> None:
    text = "FROM busybox AS own\nRUN 1\nFROM c AS other\nRUN 2\nFROM {}\nRUN 3\n"
    assert plan(text.format("alpine"), alpine="target:own").steps[-1].parent == "0.1"
    assert plan(text.format("other"), other="target:own").steps[-1].parent == "0.1"
    assert [s.id for s in plan(text.format("other"), other="target:own").steps] == ["0.1", "2.1"]


@pytest.mark.parametrize("name", ["alpine", "alpine:latest", "docker.io/library/alpine", "library/alpine"])
def test_a_context_is_found_under_every_name_of_the_image(name: str) -> None:
    for key in ("alpine", "alpine:latest", "docker.io/library/alpine"):
        made = plan(f"FROM a AS own\nRUN 1\nFROM {name}\nCOPY --from={name} f /\n", **{key: "target:own"})
        assert [i.name for i in made.images] == ["a"]
    copied = plan(f"FROM a\nCOPY --from={name} f /\n", alpine="dir").steps[0].op
    assert isinstance(copied, CopyOp)
    assert copied.source == Source(None, "alpine")
    assert [str(i.reference) for i in plan(f"FROM {name}\n", alpine="docker-image://b:1").images] == ["docker.io/library/b:1"]


def test_stages_nobody_needs_stay_out() -> None:
    assert [s.id for s in plan("FROM a AS own\nRUN 1\nFROM b\nRUN 2\n", x="target:own").steps] == ["1.1"]


@pytest.mark.parametrize(("text", "contexts"), [
    ("FROM x AS a\nRUN 1\n", {"x": "target:a"}),
    ("FROM x AS a\nRUN 1\nFROM a AS b\nFROM c\n", {"x": "target:b"}),
    ("FROM i AS a\nCOPY --from=x f /\n", {"x": "target:a"}),
    ("FROM i AS a\nCOPY --from=x f /\nFROM a AS b\nRUN 1\nFROM b\nRUN 2\n", {"x": "target:b"}),
    ("FROM i AS a\nRUN --mount=from=x,target=/t 1\nFROM i AS b\nCOPY --from=a f /\n", {"x": "target:b"}),
])  # fmt: skip
def test_circles_are_mistakes(text: str, contexts: dict[str, str]) -> None:
    with pytest.raises(DockerfileError, match="circular dependency detected on stage: a") as caught:
        plan(text, **contexts)
    assert (caught.value.location and caught.value.location.first) == 1


def test_triggers_of_a_base_may_name_it_too() -> None:
    made = plan("FROM base\nFROM scratch AS files\nCOPY f /\n", target="0", x="target:files",
                config=RuntimeConfig(on_build=("COPY --from=x f /",)))  # fmt: skip
    assert [s.id for s in made.steps] == ["1.1", "0.1"]


@pytest.mark.parametrize(("stage", "message"), [
    ("buidl", r'build context x: target stage "buidl" could not be found \(did you mean build\?\)'), ("7", '"7" could not be found$'),
    ("", 'target stage "" could not be found$'), ("-1", '"-1" could not be found'),
])  # fmt: skip
def test_a_stage_that_does_not_exist(stage: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        plan("FROM a AS build\n", x=f"target:{stage}")

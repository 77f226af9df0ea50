"""From Dockerfiles to plans: the stage graph, variables, what makes a step, and errors with their places."""

from __future__ import annotations

import pytest

from engine.dockerfile.parser import parse
from engine.errors import DockerfileError, EngineError
from engine.image.config import ImageConfig, RuntimeConfig
from engine.image.platform import Platform
from engine.plan.base import SCRATCH, CopyOp, Plan, RunOp, WorkdirOp
from engine.plan.build import ImageKey, PlanInputs, images_wanted, make_plan
from engine.plan.stages import GraphInputs, build_graph

AMD64 = Platform("linux", "amd64")


def plan(text: str, target: str = "", base: RuntimeConfig | None = None, platform: Platform = AMD64, **args: str) -> Plan:
    graph = build_graph(parse(text.encode()), GraphInputs(target, args, AMD64, platform, {}))
    configs: dict[ImageKey, ImageConfig] = {}
    while wanted := images_wanted(graph, configs):
        configs |= {key: ImageConfig(key[1], base or RuntimeConfig()) for key in wanted}
    return make_plan(graph, configs, PlanInputs(args))


def runs(made: Plan) -> list[RunOp]:
    return [s.op for s in made.steps if isinstance(s.op, RunOp)]


def environment(made: Plan, n: int = -1) -> dict[str, str]:
    return dict(runs(made)[n].env)


@pytest.mark.rule(121)
def test_only_what_the_target_needs_is_planned() -> None:
    made = plan("FROM a AS one\nRUN 1\nFROM b AS two\nRUN 2\nFROM c\nCOPY --from=one /x /y\n")
    assert [s.id for s in made.steps] == ["0.1", "2.1"]
    assert {i.name for i in made.images} == {"a", "c"}


def test_independent_stages_do_not_need_each_other() -> None:
    made = plan("FROM scratch AS a\nCOPY x /\nFROM scratch AS b\nCOPY y /\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n")
    needs = {s.id: s.needs for s in made.steps}
    assert needs == {"0.1": (), "1.1": (), "2.1": ("0.1",), "2.2": ("2.1", "1.1")}


@pytest.mark.rule(25)
def test_numbers_and_names_of_any_case_mean_stages() -> None:
    made = plan("FROM scratch AS Build\nCOPY x /\nFROM scratch\nCOPY --from=BUILD x /1\nCOPY --from=0 x /2\n")
    sources = [s.op.source.state for s in made.steps if isinstance(s.op, CopyOp) and s.id.startswith("1.")]
    assert sources == ["0.1", "0.1"]


def test_an_unknown_name_is_an_image() -> None:
    made = plan("FROM scratch\nCOPY --from=busybox:1 /x /\n")
    assert [str(i.reference) for i in made.images] == ["docker.io/library/busybox:1"]


def test_mounts_from_a_stage_make_it_needed() -> None:
    made = plan("FROM scratch AS tools\nCOPY t /\nFROM base\nRUN --mount=type=bind,from=tools,target=/t t\n")
    assert made.steps[-1].needs == ("image:0", "0.1")


def test_scratch_starts_from_nothing() -> None:
    made = plan("FROM scratch\nCOPY x /\n")
    assert (made.steps[0].parent, made.config.config.working_dir) == (SCRATCH, "/")


@pytest.mark.rule(16)
def test_the_last_declaration_of_arg_and_env_wins() -> None:
    assert environment(plan("FROM b\nENV X=env\nARG X=arg\nRUN true\n"))["X"] == "arg"
    assert environment(plan("FROM b\nARG X=arg\nENV X=env\nRUN true\n"))["X"] == "env"


@pytest.mark.rule(17)
def test_args_are_seen_by_stages_built_on_theirs_and_not_by_others() -> None:
    text = "FROM b AS one\nARG V=v\nFROM one\nRUN true\n"
    assert environment(plan(text))["V"] == "v"
    assert "V" not in environment(plan("FROM b AS one\nARG V=v\nFROM b\nCOPY --from=one / /\nRUN true\n"))


@pytest.mark.rule(13)
def test_an_arg_without_value_is_not_in_the_environment() -> None:
    env = environment(plan("FROM b\nARG FOO\nARG BAR=\nRUN env\n"))
    assert ("FOO" in env, env["BAR"]) == (False, "")


@pytest.mark.rule(10)
def test_pairs_of_one_instruction_see_the_values_before_it() -> None:
    assert environment(plan("FROM b\nENV a=1\nENV a=2 b=$a\nRUN true\n"))["b"] == "1"


@pytest.mark.rule(12)
def test_global_args_reach_from_and_what_declares_them() -> None:
    made = plan("ARG base=box\nARG tag=${base}-1\nFROM $base:$tag\nRUN 1\nARG tag\nRUN 2\n")
    assert made.images[0].name == "box:box-1"
    assert [environment(made, n).get("tag") for n in (0, 1)] == [None, "box-1"]


@pytest.mark.rule(18)
def test_the_target_stage_has_a_name() -> None:
    assert environment(plan("FROM b AS foo\nARG TARGETSTAGE\nRUN x\nFROM b\n", target="foo"))["TARGETSTAGE"] == "foo"
    assert environment(plan("FROM b\nARG TARGETSTAGE\nRUN x\n"))["TARGETSTAGE"] == "default"


@pytest.mark.rule(45)
def test_proxies_reach_run_and_nothing_else() -> None:
    made = plan("FROM b\nRUN x\n", http_proxy="hp", NO_PROXY="np")
    assert dict(runs(made)[0].proxies) == {"http_proxy": "hp", "HTTP_PROXY": "hp", "no_proxy": "np", "NO_PROXY": "np"}
    assert "http_proxy" not in environment(made)
    assert "proxy" not in made.history[0].created_by.lower()


@pytest.mark.rule(45)
def test_proxies_are_no_part_of_what_a_run_is() -> None:
    assert runs(plan("FROM b\nRUN x\n", http_proxy="1")) == runs(plan("FROM b\nRUN x\n", http_proxy="2"))


@pytest.mark.rule(99, 101)
def test_workdir_joins_and_root_makes_no_step() -> None:
    made = plan("FROM b\nWORKDIR /a\nWORKDIR b\nWORKDIR ..\nWORKDIR $unset\nWORKDIR /\n")
    assert [s.op.path for s in made.steps if isinstance(s.op, WorkdirOp)] == ["/a", "/a/b", "/a", "/a"]
    assert made.config.config.working_dir == "/"


@pytest.mark.rule(106)
def test_entrypoint_drops_only_an_inherited_cmd() -> None:
    base = RuntimeConfig(cmd=("base",))
    assert plan('FROM b\nENTRYPOINT ["e"]\n', base=base).config.config.cmd is None
    assert plan('FROM b\nCMD ["c"]\nENTRYPOINT ["e"]\n', base=base).config.config.cmd == ("c",)


@pytest.mark.rule(107)
def test_onbuild_of_the_base_runs_first_and_is_gone() -> None:
    made = plan("FROM b\nRUN own\n", base=RuntimeConfig(on_build=("ENV A=1", "RUN trigger")))
    assert [op.argv[-1] for op in runs(made)] == ["trigger", "own"]
    assert environment(made)["A"] == "1"
    assert made.config.config.on_build == ()


def test_onbuild_may_make_a_stage_needed() -> None:
    text = "FROM b AS tools\nRUN t\nFROM other\n"
    graph = build_graph(parse(text.encode()), GraphInputs("", {}, AMD64, AMD64, {}))
    first = images_wanted(graph, {})
    assert [k[0].familiar for k in first] == ["other:latest"]
    configs = {k: ImageConfig(AMD64, RuntimeConfig(on_build=("COPY --from=tools /t /t",))) for k in first}
    assert [k[0].familiar for k in images_wanted(graph, configs)] == ["b:latest"]


@pytest.mark.rule(29, 31)
def test_heredocs_of_run() -> None:
    made = plan("FROM b\nRUN <<EOF\necho a\nEOF\nRUN <<EOF\n#!/bin/awk\nx\nEOF\nRUN cat <<A > /x\nhi\nA\n")
    first, second, third = runs(made)
    assert (first.argv[-1], first.script) == ("echo a\n", None)
    assert (second.argv[-1], second.script) == ("/dev/pipes/EOF", "#!/bin/awk\nx\n")
    assert third.argv[-1] == "cat <<A > /x\nhi\nA"


def test_steps_have_names_that_say_where_they_stand() -> None:
    made = plan("FROM b AS build\nRUN make\nRUN test\nFROM scratch\nCOPY --from=build /x /\n")
    assert [s.name for s in made.steps] == ["[build 2/3] RUN make", "[build 3/3] RUN test", "[stage-1 2/2] COPY --from=build /x /"]


@pytest.mark.parametrize(("text", "message", "line"), [
    ("ARG foo=bar\n", "dockerfile contains no stages to build", 1),
    ("ARG B\nFROM ${B}\n", r"base name \(\$\{B\}\) should not be blank", 2),
    ("FROM a AS 1x\n", 'invalid name for build stage: "1x"', 1),
    ("FROM Upper/Case\n", "repository name must be lowercase", 1),
    ("FROM --platform=what b\n", "unknown operating system or architecture", 1),
    ("FROM b\nCOPY --from=later /x /\nFROM b AS later\nFROM b\nCOPY --from=0 / /\n", 'cannot copy from stage "later"', 2),
    ("FROM b\nCOPY --from=0 /x /\n", 'cannot copy from stage "0"', 2),
    ("FROM b\nCOPY --from=7 /x /\n", "invalid stage index 7", 2),
    ("FROM b\nCOPY --from=$x /x /\n", "variable expansion is not supported for --from", 2),
    ("FROM b\nRUN --security=insecure x\n", "security", 2),
    ("FROM b\nARG x\nENV y=${x:?}\n", "x", 3),
])
def test_mistakes_end_in_an_error_with_its_place(text: str, message: str, line: int) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        plan(text)
    assert caught.value.location is not None
    assert caught.value.location.first == line
    assert caught.value.source == text


@pytest.mark.rule(122)
def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(DockerfileError, match="did you mean build"):
        plan("FROM b AS build\n", target="biuld")


def contexts(text: str, **named: str) -> Plan:
    graph = build_graph(parse(text.encode()), GraphInputs("", {}, AMD64, AMD64, named))
    configs = {key: ImageConfig(key[1]) for key in images_wanted(graph, {})}
    return make_plan(graph, configs, PlanInputs(contexts=named))


@pytest.mark.rule("T1")
def test_named_contexts_take_the_place_of_images_and_stages() -> None:
    made = contexts("FROM scratch AS a\nCOPY x /\nFROM b\nCOPY --from=a /f /\nCOPY --from=c /g /\n",
                    a="./dir", b="docker-image://other:2", c="oci-layout:///some/dir:tag")  # fmt: skip
    assert [i.reference.familiar for i in made.images] == ["other:2", "oci-layout//some/dir:tag"]
    sources = [s.op.source for s in made.steps if isinstance(s.op, CopyOp)]
    assert (sources[0].context, sources[1].state) == ("a", "image:1")


def test_a_stage_may_start_from_the_files_of_a_context() -> None:
    made = contexts("FROM files\nRUN x\n", files="./dir")
    first = made.steps[0].op
    assert isinstance(first, CopyOp)
    assert (first.source.context, made.steps[0].parent, made.steps[1].parent) == ("files", SCRATCH, "0.1")


def test_names_of_steps_are_on_one_line_and_show_how_a_heredoc_begins() -> None:
    made = plan("FROM b\nRUN --network=none \\\n    true\nRUN <<EOF\nset -e\necho a\nEOF\nRUN <<EOF\n#!/bin/awk\nBEGIN { print 1 } END { print 2 } # more\nEOF\n")
    assert [s.name for s in made.steps] == ["[2/4] RUN --network=none true", "[3/4] RUN <<EOF (set -e echo a)",
                                            "[4/4] RUN <<EOF (#!/bin/awk BEGIN { print 1 } END { print…)"]

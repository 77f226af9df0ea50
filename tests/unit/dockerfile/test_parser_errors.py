"""Mistakes in Dockerfiles: BuildKit's words, and the place (rules 20 to 28, 92, 97, 104)."""

from __future__ import annotations

import contextlib

import pytest

from engine.dockerfile.parser import parse
from engine.errors import DockerfileError, Location


def failure(text: str | bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), "build/Dockerfile")
    return caught.value


@pytest.mark.rule(21, 22, 23, 25, 28, 104)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("FOOBAR x", "unknown instruction: FOOBAR"),
        ("FOO bar", "unknown instruction: FOO (did you mean FROM?)"),
        ("FNTRYPOINT x", "unknown instruction: FNTRYPOINT (did you mean ENTRYPOINT?)"),
        ("rnu x", "unknown instruction: rnu (did you mean run?)"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD maintainer x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("COPY ", "COPY requires at least two arguments, but only one was provided. Destination could not be determined"),
        ("ADD x", "ADD requires at least two arguments, but only one was provided. Destination could not be determined"),
        ("COPY x <<EOF\nEOF", "COPY cannot accept a heredoc as a destination"),
        ("MAINTAINER --boo x", "unknown flag: --boo"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("RUN --mont=x y", "unknown flag: --mont (did you mean mount?)"),
        ("RUN --network=mars x", 'invalid network mode "mars"'),
        ("RUN --security=none x", 'security "none" is not valid'),
        ("RUN --mount=from=$x,target=/a y", "'from' doesn't support variable expansion, define alias stage instead"),
        ('RUN --mount=a\\"b y', 'failed to parse csv mounts: bare " in non-quoted field "a\\"b"'),
        ("COPY --from=a --from=b c d", "duplicate flag specified: --from"),
        ("COPY --from a b", "missing a value on flag: --from"),
        ("COPY --link= a b", "missing a value on flag: --link"),
        ("COPY --link=yes a b", "expecting boolean value for flag --link, not: yes"),
        ("COPY --checksum=x a b", "unknown flag: --checksum"),
        ("ADD --from=x a b", "unknown flag: --from"),
        ("COPY --form=x a b", "unknown flag: --form (did you mean from?)"),
        ("ENV --x a=b", "unknown flag: --x"),
        (
            "COPY --from=$x a b",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a "
            "workaround",
        ),
        ("ENV a", "ENV must have two arguments"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
        ("ENV =b", "ENV names can not be blank"),
        ("LABEL a", "LABEL must have two arguments"),
        ("LABEL", "LABEL requires at least one argument"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =x", "ARG names can not be blank"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a AS", "FROM requires either one or three arguments"),
        ("FROM a b c", "FROM requires either one or three arguments"),
        ("FROM a AS 1x", 'invalid name for build stage: "1x", name can\'t start with a number or contain symbols'),
        ("FROM a AS x!", 'invalid name for build stage: "x!", name can\'t start with a number or contain symbols'),
        ("FROM --platfrom=x a", "unknown flag: --platfrom (did you mean platform?)"),
        ('CMD ["a", 1]', "when using JSON array syntax, arrays must be comprised of strings only"),
        ('ONBUILD CMD ["a", null]', "when using JSON array syntax, arrays must be comprised of strings only"),
        ("VOLUME [true]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("SHELL bash -c", "SHELL requires the arguments to be in JSON form"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ('VOLUME [" "]', "VOLUME specified can not be an empty string"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("USER", "USER requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK CMD []", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK curl x", 'Unknown type "CURL" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=0.5ms CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --start-period=-1s CMD x", 'Interval "start-period" cannot be less than 1ms'),
        ("HEALTHCHECK --timeout=5 CMD x", 'time: missing unit in duration "5"'),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=x CMD x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("HEALTHCHECK --retries=9999999999 CMD x", 'strconv.ParseInt: parsing "9999999999": value out of range'),
        ("RUN <<EOT\necho", "unterminated heredoc"),
    ],
)
def test_wrong_instructions(line: str, message: str) -> None:
    error = failure(f"FROM scratch\nRUN x \\\n  y\n{line}")
    assert error.message == message
    assert error.location is not None
    assert (error.location.first, error.location.last) == (4, 4 + line.count("\n"))
    assert error.location.file == "build/Dockerfile"
    assert error.source is not None and error.source.startswith("FROM scratch\n")


def test_a_mistake_over_several_lines_has_all_of_them() -> None:
    error = failure("FROM scratch\n\nCOPY \\\n # c\n\n  a\n")
    assert error.location == Location(3, 6, "build/Dockerfile")


def test_structure_is_judged_before_sense() -> None:
    assert failure("FROM scratch\nFOO\nRUN <<E\n").message == "unterminated heredoc"


@pytest.mark.rule(20)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file with no instructions"),
        ("# only\n\n  # comments\n", "file with no instructions"),
        ("ARG foo=bar\n", "dockerfile contains no stages to build"),
    ],
)
def test_files_without_a_stage(text: str, message: str) -> None:
    error = failure(text)
    assert error.message == message
    assert error.location is not None


def test_instructions_before_the_first_stage() -> None:
    error = failure("ARG a\nRUN x\nFROM scratch\n")
    assert (error.message, error.location) == ("no build stage in current context", Location(2, 2, "build/Dockerfile"))


@pytest.mark.rule("T5")
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_longest_line(end: str) -> None:
    room = 65535 - len("RUN ") - len(end.rstrip("\n"))
    parse(f"FROM scratch\nRUN {'x' * room}{end}".encode())
    error = failure(f"FROM scratch\nRUN {'x' * (room + 1)}{end}")
    assert error.message == "dockerfile line greater than max allowed size of 65535"
    assert error.location == Location(2, 2, "build/Dockerfile")


def test_the_longest_line_is_counted_in_bytes() -> None:
    assert "65535" in failure(f"FROM scratch\nRUN {'ü' * 40_000}\n").message


@pytest.mark.parametrize(
    "line", ["ONBUILD " * 8000, "RUN <<" + "${a:-" * 10_000, "ENV " + "a=b " * 10_000, "RUN" + " <<A" * 10_000]
)
def test_extreme_lines_end_in_an_answer(line: str) -> None:
    with contextlib.suppress(DockerfileError):
        parse(f"FROM scratch\n{line}\n".encode())


def test_many_heredocs_take_linear_time() -> None:
    """Delimiters that look like comments and continuations, cut-up marks: the pieces given to the library stay small."""
    pieces = "RUN a <\\\n<'#E'\nx \\\n#E\nRUN cat <<'F\\'\nRUN y\nF\\\n" * 4000
    file = parse(f"FROM scratch\n{pieces}".encode())
    assert len(file.stages[0].instructions) == 8000

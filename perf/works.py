"""The works: Dockerfiles and the contexts they are built from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perf.inputs import Inputs

MODES = {"cold": "everything cold", "repeated": "nothing changed, same machine", "edited": "one small file changed, same machine",
         "cached": "new machine, all in a registry cache"}  # fmt: skip
"""How a work is built. The last but one is `repeated` after a file of the context has changed."""

EDITED = "greeting"
"""The file that changes."""


@dataclass(frozen=True, slots=True)
class Work:
    """A build that is measured."""

    name: str
    what: str
    dockerfile: str
    modes: Mapping[str, float | None]
    """How it is built, with the seconds that are to be reached; None where nobody has set any."""
    uses: str = ""
    """The attribute of `Inputs` that the context holds."""


def _stages() -> str:
    loop = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    lines = []
    for n in range(8):
        lines += [f"FROM {{small}} AS s{n}", f"RUN sleep 1.2; {loop}; echo {n} > /made-{n}"]
    return "\n".join([*lines, "FROM {small}", *(f"COPY --from=s{n} /made-{n} /made-{n}" for n in range(8))])


WORKS = (
    Work("hello", "8.7 k-file base, COPY one file, one RUN", "FROM {small}\nCOPY greeting /\nRUN cat /greeting > /said\n",
         {"cold": 1.0, "repeated": 0.35, "cached": 0.4}),
    Work("runs30", "55 k-file base in 4 layers, 30 small RUNs",
         "FROM {big}\n" + "".join(f"RUN echo {n} > /run-{n}\n" for n in range(30)), {"cold": 4.0, "cached": 0.7}),
    Work("copytree", "COPY of 40 k files, 600 MB", "FROM {small}\nCOPY node_modules /app/node_modules\n",
         {"cold": 3.0, "repeated": 0.7, "cached": 1.5}, "tree"),
    Work("bigfile", "COPY of one 1 GiB file", "FROM {small}\nCOPY big.bin /big.bin\n",
         {"cold": 3.5, "repeated": 0.35, "cached": 1.2}, "file"),
    Work("manyfiles_run", "55 k-file base, RUN cp -a of 40 k files, RUN rm of some",
         "FROM {big}\nRUN cp -a /opt/tree /opt/copy\nRUN rm -rf /opt/tree/pkg1*\n", {"cold": 7.0}),
    Work("stages", "8 stages of about 1.5 s side by side, COPY --from all", _stages(), {"cold": 4.0}),
    Work("copyrun", "COPY of 40 k files, 600 MB, and a RUN that looks at them",
         "FROM {small}\nCOPY node_modules /app/node_modules\nRUN ls /app/node_modules > /seen\n", {"cold": None}, "tree"),
    Work("edit", "55 k-file base; COPY of one small file and a RUN with it, in a stage that the image copies from",
         "FROM {big} AS made\nWORKDIR /app\nCOPY greeting in/\nRUN cat in/greeting > out\n"
         "FROM {big}\nCOPY --from=made /app/out /app/in /app/\n", {"cold": None, "edited": None}),
)  # fmt: skip


def context(work: Work, inputs: Inputs, bases: dict[str, str], directory: Path) -> Path:
    """The work's context, made once: files are hard links to the inputs."""
    place = directory / "contexts" / work.name
    if not place.exists():
        place.mkdir(parents=True)
        (place / EDITED).write_text("hello\n")
        if work.uses:
            source = getattr(inputs, work.uses)
            if source.is_dir():
                shutil.copytree(source, place / source.name, copy_function=os.link)
            else:
                os.link(source, place / source.name)
    text = work.dockerfile
    for name, reference in bases.items():
        text = text.replace("{" + name + "}", reference)
    (place / "Dockerfile").write_text(text)
    return place


def edit(context: Path, number: int) -> None:
    """Changes a file of the context; the number makes it another change each time."""
    (context / EDITED).write_text(f"hello {number}\n")

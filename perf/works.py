"""The works: Dockerfiles and the contexts they are built from."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from perf.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Work:
    """A build that is measured. The bounds are seconds that are to be reached: cold, when nothing has changed, and on a new
    machine whose registry has everything; None where there is none."""

    name: str
    what: str
    dockerfile: str
    cold: float
    repeated: float | None = None
    cached: float | None = None
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
         1.0, 0.35, 0.4),
    Work("runs30", "55 k-file base in 4 layers, 30 small RUNs",
         "FROM {big}\n" + "".join(f"RUN echo {n} > /run-{n}\n" for n in range(30)), 4.0, None, 0.7),
    Work("copytree", "COPY of 40 k files, 600 MB", "FROM {small}\nCOPY node_modules /app/node_modules\n", 3.0, 0.7, 1.5, "tree"),
    Work("bigfile", "COPY of one 1 GiB file", "FROM {small}\nCOPY big.bin /big.bin\n", 3.5, 0.35, 1.2, "file"),
    Work("manyfiles_run", "55 k-file base, RUN cp -a of 40 k files, RUN rm of some",
         "FROM {big}\nRUN cp -a /opt/tree /opt/copy\nRUN rm -rf /opt/tree/pkg1*\n", 7.0),
    Work("stages", "8 stages of about 1.5 s side by side, COPY --from all", _stages(), 4.0),
)  # fmt: skip


def context(work: Work, inputs: Inputs, bases: dict[str, str], directory: Path) -> Path:
    """The work's context, made once: files are hard links to the inputs."""
    place = directory / "contexts" / work.name
    if not place.exists():
        place.mkdir(parents=True)
        (place / "greeting").write_text("hello\n")
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

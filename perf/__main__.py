"""The command line of the benchmarks: see `scripts/bench --help`."""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from perf import inputs, measure, registry, results, series, works
from perf.builders import found
from perf.curves import CURVES

_CLONE_NEWNET = 0x40000000


def main() -> None:
    """Parses the command line and runs."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended on the way out
    measure.adopt()
    try:
        _run(arguments)
    finally:
        measure.end()


def _run(arguments: argparse.Namespace) -> None:
    place = Path(arguments.dir or (Path.home() / ".cache" if arguments.disk else _memory()))
    what, *names = arguments.what or ["builds"]
    if what == "micro":
        from perf import micro

        micro.main(place, Path(arguments.results), arguments.scale)
    elif what == "growth":
        from perf import growth

        wanted = growth.Wanted(tuple(names), arguments.full, arguments.most, arguments.runs or 1, arguments.limit)
        _own_network()
        growth.main(wanted, place / "aniko-bench", Path(arguments.results), arguments.registry)
    else:
        _builds(arguments, place / "aniko-bench")


def _builds(arguments: argparse.Namespace, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    made = inputs.make(place, arguments.scale)
    here, missing = found(place / "state", made.directory)
    builders = [b for b in here if not arguments.builders or b.name in arguments.builders.split(",")]
    for name, needs in missing.items():
        if not arguments.builders or name in arguments.builders.split(","):
            print(f"without {name}: it needs {needs}", file=sys.stderr)
    chosen = [w for w in works.WORKS if not arguments.works or w.name in arguments.works.split(",")]
    alone = _own_network()
    with registry.serving(place / "registry", arguments.registry) as (address, kind):
        bases = {"small": registry.push_base(address, "base/small", made.small),
                 "big": registry.push_base(address, "base/big", made.big)}  # fmt: skip
        contexts = {w.name: works.context(w, made, bases, place) for w in chosen}
        plan = series.Plan(address, arguments.runs or 3, arguments.modes.split(","))
        runs = series.run(chosen, builders, contexts, plan, place)
    shutil.rmtree(place / "contexts")
    about = {"registry": kind, "place": "disk" if arguments.disk else "memory", "scale": arguments.scale, "own_network": alone,
             "builders": {b.name: b.version() for b in builders}}  # fmt: skip
    results.write(Path(arguments.results), arguments.name, about, runs, chosen)
    if not arguments.keep:
        shutil.rmtree(place)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Builds each work with each builder that is found, in "
                                     "turns, and writes what it took to perf/results.")
    parser.add_argument("what", nargs="*", metavar="WHAT", help="builds: with all builders (the default); micro: the engine's "
                        "parts alone; growth [CURVE…]: how cost grows with the size of things, of all curves or of those that are "
                        f"named ({', '.join(c.name for c in CURVES)})")
    parser.add_argument("--works", help=f"with commas between; default all: {','.join(w.name for w in works.WORKS)}")
    parser.add_argument("--builders", help="with commas between; default all that are found: "
                        "plain (which is none: the work itself),aniko,aniko-walk (where nothing can be mounted),"
                        "buildah,docker,buildkit,kaniko")
    parser.add_argument("--modes", default=",".join(works.MODES), help="cold: nothing is known; repeated: the same build again; "
                        "edited: again after a file has changed; cached: nothing is known but a cache in the registry. Default: "
                        "%(default)s")
    parser.add_argument("--runs", type=int, help="of each, besides one that looks at memory; default: 3, of growth 1")
    parser.add_argument("--full", action="store_true", help="growth: more points on each curve")
    parser.add_argument("--most", type=float, metavar="SIZE",
                        help="growth: leave out larger sizes (files, MB, steps, stages, builds)")
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS",
                        help="growth: of each curve; what is not done by then is left out; default: %(default)s")
    parser.add_argument("--disk", action="store_true", help="keep the state on disk instead of in memory")
    parser.add_argument("--dir", help="where inputs, state and registry are (default: /dev/shm, or with --disk ~/.cache)")
    parser.add_argument("--keep", action="store_true", help="keep the inputs for the next time")
    parser.add_argument("--registry", choices=("auto", "embedded"), default="auto", help="default: docker-registry if it is here")
    parser.add_argument("--scale", type=float, default=1.0, help="of the inputs, to try the harness: 0.05")
    parser.add_argument("--results", default=str(Path(__file__).parent / "results"), help="default: %(default)s")
    parser.add_argument("--name", default="builds", help="of the files that are written; default: %(default)s")
    arguments = parser.parse_intermixed_args()
    what, *names = arguments.what or ["builds"]
    curves = [c.name for c in CURVES]
    if what not in ("builds", "micro", "growth"):
        parser.error(f"{what!r} is none of builds, micro, growth")
    if unknown := [n for n in names if what != "growth" or n not in curves]:
        parser.error(f"{unknown[0]!r} is none of {', '.join(curves)}" if what == "growth" else f"{what} takes no {unknown[0]!r}")
    return arguments


def _memory() -> str:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"


def _own_network() -> bool:
    """A network namespace of our own, where only our bytes go over the loopback; False where that is not allowed."""
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET):
        return False
    return subprocess.run(["ip", "link", "set", "lo", "up"], stderr=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    main()

"""The command line of the benchmarks: see `scripts/bench --help`."""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
from pathlib import Path

from perf import inputs, registry, results, series, works
from perf.builders import found

_CLONE_NEWNET = 0x40000000


def main() -> None:
    """Parses the command line and runs."""
    arguments = _arguments()
    if arguments.level == "micro":
        from perf import micro

        micro.main(Path(arguments.dir or _memory()), Path(arguments.results), arguments.scale)
        return
    place = Path(arguments.dir or (Path.home() / ".cache" if arguments.disk else _memory())) / "aniko-bench"
    place.mkdir(parents=True, exist_ok=True)
    made = inputs.make(place, arguments.scale)
    chosen = [w for w in works.WORKS if not arguments.works or w.name in arguments.works.split(",")]
    builders = [b for b in found(place / "state") if not arguments.builders or b.name in arguments.builders.split(",")]
    alone = not any(b.name == "buildkit" for b in builders) and _own_network()
    with registry.serving(place / "registry", arguments.registry) as (address, kind):
        bases = {"small": registry.push_base(address, "base/small", made.small),
                 "big": registry.push_base(address, "base/big", made.big)}  # fmt: skip
        contexts = {w.name: works.context(w, made, bases, place) for w in chosen}
        runs = series.run(chosen, builders, contexts, series.Plan(address, arguments.runs, arguments.modes.split(",")), place)
    for builder in builders:
        builder.forget()
    shutil.rmtree(place / "contexts")
    about = {"registry": kind, "place": "disk" if arguments.disk else "memory", "scale": arguments.scale, "own_network": alone,
             "builders": {b.name: b.version() for b in builders}}  # fmt: skip
    results.write(Path(arguments.results), arguments.name, about, runs, chosen)
    if not arguments.keep:
        shutil.rmtree(place)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Builds each work with each builder that is found, in "
                                     "turns, and writes what it took to perf/results.")
    parser.add_argument("--works", help=f"with commas between; default all: {','.join(w.name for w in works.WORKS)}")
    parser.add_argument("--builders", help="with commas between; default all that are found: aniko,buildah,buildkit,kaniko")
    parser.add_argument("--modes", default="cold,repeated,cached", help="cold: nothing is known; repeated: the same build again; "
                        "cached: nothing is known but a cache in the registry. Default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="of each, besides one that looks at memory; default: %(default)s")
    parser.add_argument("--disk", action="store_true", help="keep the state on disk instead of in memory")
    parser.add_argument("--dir", help="where inputs, state and registry are (default: /dev/shm, or with --disk ~/.cache)")
    parser.add_argument("--keep", action="store_true", help="keep the inputs for the next time")
    parser.add_argument("--registry", choices=("auto", "embedded"), default="auto", help="default: docker-registry if it is here")
    parser.add_argument("--scale", type=float, default=1.0, help="of the inputs, to try the harness: 0.05")
    parser.add_argument("--results", default=str(Path(__file__).parent / "results"), help="default: %(default)s")
    parser.add_argument("--name", default="builds", help="of the files that are written; default: %(default)s")
    parser.add_argument("level", nargs="?", choices=("builds", "micro"), default="builds",
                        help="builds with all builders, or the engine's parts alone; default: %(default)s")
    return parser.parse_args()


def _memory() -> str:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"


def _own_network() -> bool:
    """A network namespace of our own, where only our bytes go over the loopback; False where that is not allowed."""
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET):
        return False
    return subprocess.run(["ip", "link", "set", "lo", "up"], stderr=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    main()

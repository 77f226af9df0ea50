"""Runs `aniko` commands, each in a process of its own, without importing everything anew for each: it is imported here once, and
every command is a fork of this process.

A line on standard input is a JSON object with `argv` and `output`, the file that the command's output goes to; the answer is its exit
code on a line.
"""

from __future__ import annotations

import json
import os
import sys
import traceback


def main() -> None:
    import aiohttp.web  # noqa: F401  # what a build imports late
    import uvloop  # noqa: F401

    import engine.api
    import engine.cli.build
    import engine.cli.loop
    import engine.output.oci
    import engine.registry.client
    import engine.snapshot.overlay
    import engine.snapshot.walk  # noqa: F401
    from engine.cli.main import main as aniko

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            code = 1
            try:
                output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                nothing = os.open("/dev/null", os.O_RDONLY)
                for source, target in ((nothing, 0), (output, 1), (output, 2)):
                    os.dup2(source, target)
                code = aniko(job["argv"])
                sys.stdout.flush()
                sys.stderr.flush()
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()

"""`aniko cache`: what is in the state directory, what of it can go, and whether it is sound."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from engine.cli import amounts, rebuild
from engine.cli.parser import add_switch
from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.upkeep import Upkeep

SUMMARY = "show, prune and verify what earlier builds have left"

_SOUND, _UNSOUND = 0, 8
_ACTIONS = {
    "du": "sizes by kind, and what of them a prune could free",
    "ls": "records, bases and cache mounts, those used last first",
    "inspect": "a record: its step, its layer and what its key was made of",
    "prune": "remove what nothing needs; with a policy also records, bases and mounts, and what only they need",
    "verify": "read blobs again, and remove those that are not what they should be; run steps again, and compare",
    "gc": "remove old entries of a registry cache",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions and their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        if name in ("inspect", "gc"):
            action.add_argument("name", metavar="KEY" if name == "inspect" else "REF",
                                help="how the record's key begins" if name == "inspect" else "the cache's repository")
        action.add_argument("--state-dir", metavar="DIR", help="the state directory (default: ANIKO_STATE_DIR, else XDG's)")
        add_switch(action, "--json", help="write JSON instead of text")
        if name in ("prune", "gc"):
            add_switch(action, "--dry-run", help="only say what would go")
            action.add_argument("--older-than", metavar="TIME", required=name == "gc",
                                help=f"what was {'made' if name == 'gc' else 'last used'} so long ago: 90s, 30m, 24h, 7d, 2w")
        if name in ("prune", "ls"):
            action.add_argument("--kind", metavar="KIND[,KIND]", action="append", default=[], help="only record, base or mount")
    prune = actions.choices["prune"]
    add_switch(prune, "--all", help="everything that no running build uses")
    prune.add_argument("--keep-storage", metavar="SIZE",
                       help="what was not used for longest, until no more than this is left: 500MB, 20GB")
    actions.choices["verify"].add_argument("--sample", metavar="N", type=int, help="only N blobs, chosen at random")
    rebuild.configure(actions.choices["verify"])
    actions.choices["gc"].add_argument("--insecure-registry", metavar="HOST[:PORT]", action="append", default=[],
                                       help="speak http, or https with a certificate that nobody checks, to this registry")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the action; returns 8 when `verify` found something wrong."""
    actions: dict[str, Callable[[Upkeep, argparse.Namespace], Awaitable[int]]] = {
        "du": _du, "ls": _ls, "inspect": _inspect, "prune": _prune, "verify": _verify, "gc": _gc}
    from engine.cli import loop

    arguments.of_build = rebuild.parse(arguments) if arguments.action == "verify" else None
    return loop.run(lambda: _with_upkeep(arguments, actions[arguments.action]))


async def _with_upkeep(arguments: argparse.Namespace, action: Callable[[Upkeep, argparse.Namespace], Awaitable[int]]) -> int:
    from engine.cli import paths
    from engine.settings import Settings
    from engine.upkeep import opened

    directory = paths.state_dir(arguments.state_dir, os.environ)
    if not directory.is_dir() and arguments.action != "gc":
        raise UsageError(f"there is no state directory {directory}", hint="name one with --state-dir; builds make it")
    settings = Settings(directory, auth=paths.docker_config(os.environ), environment=dict(os.environ),
                        insecure_registries=frozenset(getattr(arguments, "insecure_registry", ())))  # fmt: skip
    async with opened(settings) as upkeep:
        return await action(upkeep, arguments)


async def _du(upkeep: Upkeep, arguments: argparse.Namespace) -> int:
    usage = await upkeep.usage(time.time())
    total = {"count": sum(u.count for u in usage), "size": sum(u.size for u in usage),
             "reclaimable": sum(u.reclaimable for u in usage)}  # fmt: skip
    if arguments.json:
        kinds = {u.kind: {"count": u.count, "size": u.size, "reclaimable": u.reclaimable} for u in usage}
        return _json({"kinds": kinds, "total": total})
    rows = [(u.kind, str(u.count), _bytes(u.size), _bytes(u.reclaimable)) for u in usage]
    rows.append(("total", str(total["count"]), _bytes(total["size"]), _bytes(total["reclaimable"])))
    return _table(("KIND", "COUNT", "SIZE", "RECLAIMABLE"), rows)


async def _ls(upkeep: Upkeep, arguments: argparse.Namespace) -> int:
    kinds = _kinds(arguments) or {"record", "base", "mount"}
    found: list[dict[str, Any]] = []
    if "record" in kinds:
        found += [{"kind": "record", "id": str(r.key), "name": r.step, "size": r.size, "created": r.created, "used": r.used}
                  for r in upkeep.records()]  # fmt: skip
    if "base" in kinds:
        found += [{"kind": "base", "id": str(b.digest), "name": b.reference.familiar, "size": 0, "created": b.seen, "used": b.used}
                  for b in upkeep.bases()]  # fmt: skip
    if "mount" in kinds:
        found += [{"kind": "mount", "id": m.name, "name": m.id, "size": m.size, "created": m.used, "used": m.used, "busy": m.busy}
                  for m in await upkeep.mounts()]  # fmt: skip
    found.sort(key=lambda item: float(item["used"]), reverse=True)
    if arguments.json:
        return _json(found)
    return _table(("KIND", "ID", "SIZE", "USED", "NAME"),
                  [(i["kind"], i["id"].removeprefix("sha256:")[:16], _bytes(i["size"]), _ago(i["used"]), _short(i["name"]))
                   for i in found])  # fmt: skip


async def _inspect(upkeep: Upkeep, arguments: argparse.Namespace) -> int:
    record = await upkeep.record(arguments.name)
    layer = record.layer
    value = {"key": str(record.key), "step": record.step, "created": record.created, "ingredients": dict(record.ingredients),
             "layer": {"diff_id": str(layer.diff_id), "blob": layer.blob.to_json()} if layer else None}  # fmt: skip
    if arguments.json:
        return _json(value)
    lines = [f"key      {record.key}", f"step     {_short(record.step, 200)}", f"created  {_ago(record.created)}"]
    lines.append(f"layer    {layer.blob.digest} ({_bytes(layer.blob.size)})" if layer else "layer    none")
    lines += ["made of", *(f"  {name}: {_short(text, 200)}" for name, text in record.ingredients.items())]
    return _lines(lines)


async def _prune(upkeep: Upkeep, arguments: argparse.Namespace) -> int:
    from engine.content.gc import Policy

    policy = Policy(arguments.all, amounts.seconds(arguments.older_than), amounts.size(arguments.keep_storage),
                    frozenset(_kinds(arguments)))  # fmt: skip
    if policy.kinds and not (policy.all or policy.older_than is not None or policy.keep_storage is not None):
        raise UsageError("--kind alone lets go of nothing", hint="add --all, --older-than or --keep-storage")
    verdict = await upkeep.prune(policy, time.time(), dry=arguments.dry_run)
    if arguments.json:
        removed = [{"kind": item.name[0], "id": item.name[1], "size": item.size} for item in verdict.remove]
        return _json({"removed": removed, "freed": verdict.freed, "kept": verdict.kept, "dry_run": arguments.dry_run})
    verb = "would remove" if arguments.dry_run else "removed"
    lines = [f"{verb} {item.name[0]} {item.name[1]} ({_bytes(item.size)})" for item in verdict.remove]
    frees = "would free" if arguments.dry_run else "freed"
    left = "would be left" if arguments.dry_run else "are left"
    return _lines([*lines, f"{frees} {_bytes(verdict.freed)}, {_bytes(verdict.kept)} {left}"])


async def _verify(upkeep: Upkeep, arguments: argparse.Namespace) -> int:
    if arguments.sample is not None and arguments.sample < 1:
        raise UsageError("--sample must be 1 or more")
    count, findings = await upkeep.verify(arguments.sample)
    known, rebuilt = await rebuild.run(arguments, arguments.of_build) if arguments.of_build else (0, [])
    if arguments.json:
        value = {"blobs": count, "findings": [{"kind": f.kind, "id": f.name, "problem": f.problem} for f in findings]}
        _json(value | ({"rebuilt": rebuild.to_json(known, rebuilt)} if arguments.of_build else {}))
    else:
        _lines([*(f"removed {f.kind} {f.name}: {f.problem}" for f in findings),
                f"read {count} blobs, found {len(findings) or 'nothing'} wrong",
                *(rebuild.lines(known, rebuilt) if arguments.of_build else ())])  # fmt: skip
    return _SOUND if not findings and all(each.sound for each in rebuilt) else _UNSOUND


async def _gc(upkeep: Upkeep, arguments: argparse.Namespace) -> int:
    from engine.image.reference import Reference

    age = amounts.seconds(arguments.older_than)
    assert age is not None
    total, removed = await upkeep.collect(Reference.parse(arguments.name), age, time.time(), dry=arguments.dry_run)
    if arguments.json:
        return _json({"entries": total, "removed": removed, "dry_run": arguments.dry_run})
    return _lines([f"{'would remove' if arguments.dry_run else 'removed'} {len(removed)} of {total} entries"])


def _kinds(arguments: argparse.Namespace) -> set[str]:
    from engine.upkeep import ROOTS

    kinds = {kind for value in arguments.kind for kind in value.split(",") if kind}
    if kinds - set(ROOTS):
        raise UsageError(f"unknown kind {', '.join(sorted(kinds - set(ROOTS)))}", hint=f"the kinds are {', '.join(ROOTS)}")
    return kinds


def _bytes(count: int) -> str:
    from engine.progress import units

    return units.size(count)


def _ago(time_then: float) -> str:
    from engine.progress import units

    return f"{units.age(time.time() - time_then)} ago"


def _short(text: str, most: int = 60) -> str:
    from engine.progress.lines import clean

    line = clean(" ".join(text.split()), colour=False)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _json(value: object) -> int:
    from engine import codec

    sys.stdout.write(codec.encode_pretty(value).decode().rstrip("\n") + "\n")
    return 0


def _lines(lines: Iterable[str]) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    return _lines("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows))

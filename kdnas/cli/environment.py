"""Commands about this machine and what ships: recipes, strategies, assets, cache, latency, doctor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from kdnas.cli import frame
from kdnas.system.errors import UsageError
from kdnas.system.text import clean

if TYPE_CHECKING:
    from pydantic import BaseModel


@click.command()
@frame.as_json
def strategies(as_json: bool) -> None:
    """List the search strategies, each with its options (--strategy-option OPTION=VALUE)."""
    from kdnas.study.spec_strategies import strategy_parts

    _print_parts(strategy_parts(), as_json)


@click.command()
@frame.as_json
def recipes(as_json: bool) -> None:
    """List the recipes (--recipe NAME), each with its options (--set recipe.OPTION=VALUE)."""
    from kdnas.study.spec_recipes import recipe_parts

    _print_parts(recipe_parts(), as_json)


def _print_parts(parts: Mapping[str, type[BaseModel]], as_json: bool) -> None:
    """Named parts of the spec: the first line of what each is, and its options."""
    options = {
        name: [
            {"name": option, "default": field.default, "what": field.description}
            for option, field in part.model_fields.items()
            if option != "name"
        ]
        for name, part in parts.items()
    }
    what = {name: (part.__doc__ or "").strip().splitlines()[0] for name, part in parts.items()}
    if as_json:
        frame.print_json([{"name": name, "what": what[name], "options": options[name]} for name in parts])
        return
    width = max(len(name) for name in parts)
    for name in parts:
        frame.line(f"{name:<{width}}  {what[name]}")
        for option in options[name]:
            frame.line(f"    {option['name']} = {_shown(option['default'])}   {option['what'] or ''}".rstrip())


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command()
@click.argument("action", type=click.Choice(["list", "fetch"]), default="list")
@click.argument("names", nargs=-1)
@click.option("--quiet", is_flag=True, help="Say nothing unless something is wrong.")
@frame.as_json
def assets(action: str, names: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """List the models and texts that ship, with their licences, or fetch NAMES (all of them by default)."""
    from kdnas.data import shipped as shelf

    if action == "list":
        if names:
            raise UsageError("`kdnas assets list` takes no names.", f"To fetch: kdnas assets fetch {' '.join(names)}")
        if as_json:
            frame.print_json(
                [
                    {
                        "name": s.asset.name,
                        "kind": s.asset.kind,
                        "what": s.asset.what,
                        "licence": s.asset.licence,
                        "size_mib": s.asset.size_mib,
                        "folder": None if s.folder is None else str(s.folder),
                    }
                    for s in shelf.shelves()
                ]
            )
            return
        frame.table(
            ["name", "kind", "fetched", "MiB", "what", "licence"],
            [
                (a.name, a.kind, "yes" if s.present else "no", f"{a.size_mib:g}", a.what, a.licence)
                for s in shelf.shelves()
                for a in (s.asset,)
            ],
        )
        return
    for name in names or shelf.names():
        folder = shelf.fetch(name, None if quiet else lambda line, _: frame.say(line))
        if not quiet:
            frame.say(f"{name} lies in {folder}")


@click.command()
@click.option("--storage", metavar="URL", help="The store to look at.  [default: as for every command]")
@click.option("--store", "only_store", is_flag=True, help="Only whether the store is whole, and what to do if not.")
@frame.as_json
def doctor(storage: str | None, only_store: bool, as_json: bool) -> int:
    """Say what is found on this machine, what is missing, and the hint; exit code 2 where it cannot work."""
    from dataclasses import asdict

    from rich.text import Text

    from kdnas.cli.doctor import examine, examine_store

    findings = []
    console = frame.out()
    signs = {"found": ("✓", "green"), "optional": ("–", "yellow"), "missing": ("✗", "bold red")}
    for finding in (examine_store if only_store else examine)(frame.place(storage)):
        findings.append(finding)
        if as_json:
            continue
        sign, style = signs[finding.state]
        console.print(Text.assemble((f"{sign} ", style), (f"{finding.subject:<10} ", "bold"), clean(finding.what)))
        if finding.hint:
            console.print(Text(clean(f"  {'':<10} {finding.hint}"), style="dim"))
    if as_json:
        frame.print_json([asdict(finding) for finding in findings])
    return 2 if any(finding.state == "missing" for finding in findings) else 0


@click.command()
@click.argument("action", type=click.Choice(["list", "clear"]), default="list")
@frame.as_json
def cache(action: str, as_json: bool) -> None:
    """List what is cached on disk (teachers' outputs, tokens, taught classifiers, scores …), or delete what no process
    uses."""
    from kdnas.system import disk_cache, paths
    from kdnas.teachers import cache_folder as shelf

    if action == "clear":
        count, freed = disk_cache.clear()
        frame.say(f"Deleted {count} cached entries, {freed / 2**20:,.0f} MiB.")
        return
    items = disk_cache.items()
    facts = {entry.folder: entry.facts for entry in shelf.entries()}
    if as_json:
        frame.print_json(
            [
                {
                    "key": item.path.stem if item.name is None else item.path.name,
                    "kind": item.kind,
                    "folder": str(item.path),
                    "bytes": item.bytes,
                    "used": item.used,
                    "in_use": item.in_use,
                    "facts": facts.get(item.path, {}),
                }
                for item in items
            ]
        )
        return
    rows = [
        (
            item.kind,
            item.path.name[:12],
            f"{item.bytes / 2**20:,.1f}",
            frame.ago(item.used),
            "yes" if item.in_use else "no",
            facts.get(item.path, {}).get("teacher"),
            facts.get(item.path, {}).get("chunks"),
        )
        for item in items
        if item.name is not None
    ]
    # Of small files there may be thousands.
    for kind in sorted({item.kind for item in items if item.name is None}):
        files = [item for item in items if item.name is None and item.kind == kind]
        size, used = sum(item.bytes for item in files), max(item.used for item in files)
        rows.append((kind, f"{len(files):,} files", f"{size / 2**20:,.1f}", frame.ago(used), "no", None, None))
    if rows:
        frame.table(["kind", "key", "MiB", "last used", "in use", "teacher", "chunks"], rows)
    whole = sum(item.bytes for item in items)
    limit = disk_cache.limit_bytes()
    frame.say(f"{whole / 2**20:,.0f} MiB of at most {limit / 2**20:,.0f} in {paths.cache_folder()} (KDNAS_CACHE_GIB).")


@click.command()
@click.argument("model")
@click.option("--against", metavar="MODEL", help="Measure beside this one, and say how much faster MODEL is.")
@click.option("--device", default="auto", metavar="VALUE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("--batch-size", type=int, help="Sequences in a pass.  [default: 1]")
@click.option("--length", type=int, help="Tokens of each.  [default: 128]")
@click.option("--threads", type=int, help="CPU threads.  [default: 1]")
@click.option("--dtype", metavar="VALUE", help="auto, float32, bfloat16 or float16.  [default: auto]")
@click.option("--max-seconds", type=float, metavar="X", help="Measure at most this long.  [default: 20]")
@frame.as_json
def latency(
    model: str,
    against: str | None,
    device: str,
    batch_size: int | None,
    length: int | None,
    threads: int | None,
    dtype: str | None,
    max_seconds: float | None,
    as_json: bool,
) -> None:
    """Measure the body of MODEL (folder, hub id or shipped name) by the same protocol as every study."""
    from dataclasses import asdict

    from kdnas.study.spec import from_values

    given = {"batch_size": batch_size, "length": length, "threads": threads, "dtype": dtype, "max_seconds": max_seconds}
    spec = from_values({"device": device, "latency": {k: v for k, v in given.items() if v is not None}})
    from kdnas.measuring.devices import resolve_device
    from kdnas.measuring.passes import dtype_name
    from kdnas.scores.model_latency import measure_model

    where = resolve_device(spec.device)
    served = dtype_name(where, spec.latency.dtype)
    measured, parameters = measure_model(model, spec.latency, where, against)
    if as_json:
        about = {"model": model, "parameters": parameters, "device": str(where), "dtype": served}
        frame.print_json({**about, **asdict(measured)})
        return
    settings = spec.latency
    frame.line(
        f"{measured.p50:.3f} ms   p90 {measured.p90:.3f}   95 % interval of the median "
        f"{measured.low:.3f} to {measured.high:.3f}   {measured.count} rounds"
    )
    frame.line(f"{parameters:,} parameters, batch {settings.batch_size}, length {settings.length}, {where}, {served}")
    if against is not None:
        frame.line(f"{against}: {measured.teacher_p50:.3f} ms; {model} is {1 / measured.ratio:.2f} times as fast")
    if measured.flag is not None:
        frame.say(f"Doubtful: {measured.flag}.")

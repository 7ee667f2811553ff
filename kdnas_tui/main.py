"""`kdnas-tui`: its command line, what it refuses before anything is drawn, and how it ends.

Draws nothing itself and runs no search.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from kdnas import __version__
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.text import clean
from kdnas_tui import custom, memory, notices, settings, theme, words
from kdnas_tui.app import KdnasApp

RECORDED = "This is a recorded study: it is only looked at. Begin one of your own with `kdnas-tui --preset quickstart`."
READONLY = "The screens were opened with --readonly: nothing is changed. Open them without it."


def main(arguments: list[str] | None = None) -> None:
    """Exit with 0, with 2 where no screen can be shown, with 128 + n after signal n."""
    if arguments is None and any("://" in word for word in sys.argv):
        from kdnas.store.command_line import hide_passwords

        hide_passwords()
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Do what the arguments ask. A fault is one line on standard error and its exit code."""
    parser = argparse.ArgumentParser(
        prog="kdnas-tui", description="Search for small, fast student language models, and watch it.", add_help=True
    )
    parser.add_argument("--version", action="version", version=f"kdnas-tui {__version__}")
    parser.add_argument("study", nargs="?", metavar="STUDY", help="open this study, or campaign, at once")
    parser.add_argument("--preset", metavar="NAME", help="begin with a spec that ships, or open its study")
    parser.add_argument("--storage", metavar="URL", help="database of the studies: a file or an SQLAlchemy URL")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--locate", action="store_true", help="print where settings, stores, logs and caches lie")
    parser.add_argument("--demo", action="store_true", help="look round in a recorded study; nothing runs")
    parser.add_argument("--readonly", action="store_true", help="look only: nothing is changed, started or stopped")
    parser.add_argument(
        "--notify", metavar="WAY", help=f"when a study ends or fails: {', '.join(notices.WAYS)} (default off)"
    )
    parser.add_argument("--serve", action="store_true", help="serve the screens to a browser on this machine only")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port of --serve (default 8000)")
    chosen = parser.parse_args(arguments)
    try:
        return _run(chosen)
    except KdnasError as error:
        print(clean(f"kdnas-tui: {error}"), file=sys.stderr)
        return error.exit_code


def _run(chosen: argparse.Namespace) -> int:
    from kdnas.system.paths import default_storage

    storage = chosen.storage or default_storage()
    if "://" in storage:
        from kdnas.store import addresses

        storage = addresses.whole(storage)
    if chosen.locate:
        for what, place in located(storage):
            print(clean(f"{what:<9} {place}"))
        return 0
    own = custom.read()
    if chosen.notify is not None:
        own = replace(own, notify=notices.require_way(chosen.notify, "--notify"))
    if chosen.serve:
        from kdnas_tui.serve import serve

        return serve(chosen, storage)
    in_browser = "TEXTUAL_DRIVER" in os.environ  # set by the server behind --serve; a pipe is all it needs
    if not in_browser and (not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb"):
        why = "TERM is dumb" if os.environ.get("TERM") == "dumb" else "this is not a terminal"
        raise UsageError(f"The screens need a terminal that can draw, and {why}.", "Use `kdnas search`.")
    drawn_to = "utf-8" if in_browser else getattr(sys.__stderr__, "encoding", None)  # where Textual draws
    ascii_only = chosen.ascii or settings.read().ascii or not theme.can_say(drawn_to)
    if chosen.demo:
        from kdnas.store import recording

        with recording.opened(recording.shipped()) as (url, study):
            return show(KdnasApp(url, study=study, ascii=ascii_only, readonly=RECORDED, custom=own))
    if chosen.study is not None and chosen.preset is not None:
        raise UsageError("A study and a preset were both given.", "Give one of them.")
    campaign = None
    if chosen.study is not None:
        from kdnas.store import campaigns, queries
        from kdnas.store.database import open_reader

        with open_reader(storage) as store:
            if queries.find_study(store, chosen.study) is None:
                campaign = campaigns.find_campaign(store, chosen.study)
            if campaign is None:
                queries.study_row(store, chosen.study)
    if chosen.preset is not None:
        from kdnas.system.paths import preset

        preset(chosen.preset)  # before anything is drawn; read where its form is made
    readonly = READONLY if chosen.readonly else ""
    return show(
        KdnasApp(
            storage,
            study=None if campaign is not None else chosen.study,
            campaign=campaign,
            preset=chosen.preset,
            ascii=ascii_only,
            readonly=readonly,
            custom=own,
        )
    )


def show(app: KdnasApp) -> int:
    """Run the app until it ends; a terminal that is gone is no fault."""
    memory.give_back()
    memory.unhurried()
    try:
        app.run()
    except OSError:
        return 1
    if app.farewell:
        print(clean(app.farewell))
    return app.return_code or 0


def located(storage: str) -> list[tuple[str, str | Path]]:
    """Every place that kdnas-tui uses, without a password."""
    from kdnas.system import paths

    return [
        ("storage", words.shown_storage(storage)),
        ("settings", settings.path()),
        ("custom", custom.path()),
        ("state", paths.state_folder()),
        ("cache", paths.cache_folder()),
    ]


if __name__ == "__main__":
    main()

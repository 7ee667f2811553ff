"""The screens in a browser, through textual-serve, for this machine only; a tunnel brings them elsewhere.

Each browser tab is a `kdnas-tui` process of its own; closing the tab ends the screens and no search. Other people of
this machine, and pages of other sites in one's own browser, reach its ports too: the address holds a key.
"""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from kdnas.system.errors import UsageError

LOOPBACK = "127.0.0.1"


def command(chosen: argparse.Namespace) -> str:
    """What a browser tab runs: these flags without --serve; the storage goes through the environment."""
    words = [sys.executable, "-m", "kdnas_tui"]
    words += [chosen.study] if chosen.study else []
    words += ["--preset", chosen.preset] if chosen.preset else []
    words += ["--notify", chosen.notify] if chosen.notify else []
    words += [
        flag
        for flag, given in (("--demo", chosen.demo), ("--readonly", chosen.readonly), ("--ascii", chosen.ascii))
        if given
    ]
    return shlex.join(words)


def tunnel(port: int) -> str:
    return f"ssh -L {port}:{LOOPBACK}:{port} {getpass.getuser()}@{socket.getfqdn()}"


def serve(chosen: argparse.Namespace, storage: str) -> int:
    """Serve until interrupted. Raises UsageError where the extra is missing or the port is taken."""
    try:
        import textual_serve.server  # noqa: F401
    except ImportError:
        raise UsageError("Serving needs textual-serve.", "Install it: pip install 'kdnas[web]'.") from None
    port = chosen.port
    if not 1 <= port <= 65535:
        raise UsageError(f"There is no port {port}.", "Give 1024 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UsageError(f"Port {port} cannot be used: {error.strerror}.", "Give another --port.") from None
    key = secrets.token_urlsafe(16)
    print(f"kdnas-tui on http://{LOOPBACK}:{port}/?key={key} for this machine only; Ctrl-C ends it.", file=sys.stderr)
    print(f"From elsewhere, before you open it: {tunnel(port)}", file=sys.stderr)
    os.environ["KDNAS_STORAGE"] = storage  # its password is nothing for the list of processes
    guarded(command(chosen), port, key).serve()
    return 0


def guarded(command: str, port: int, key: str) -> Any:
    """A server that answers only who has brought the key once; a cookie keeps it, which other sites cannot send."""
    from aiohttp import web
    from textual_serve.server import Server

    cookie = f"kdnas-{port}"

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given = request.query.get("key", request.cookies.get(cookie, ""))
        if not secrets.compare_digest(given.encode(), key.encode()):
            raise web.HTTPForbidden(text="Open the address that kdnas-tui printed: it holds a key.\n")
        if "key" not in request.query:
            return await handler(request)
        there = web.HTTPFound(f"http://{LOOPBACK}:{port}/")  # the key does not stay in the address
        there.set_cookie(cookie, key, httponly=True, samesite="Strict")
        raise there

    class Guarded(Server):
        async def _make_app(self) -> web.Application:
            app = await super()._make_app()
            app.middlewares.append(guard)
            return app

        async def on_startup(self, app: web.Application) -> None:
            """Nothing is said here: the library would print the address without its key, which is refused."""

    return Guarded(command, host=LOOPBACK, port=port, title="kdnas")

"""The screens in a browser, through textual-serve, for this machine only; a tunnel brings them elsewhere.

Each browser tab is a `kdnas-tui` process of its own; closing the tab ends the screens and no search.
"""

from __future__ import annotations

import argparse
import getpass
import os
import shlex
import socket
import sys

from kdnas.errors import UsageError

LOOPBACK = "127.0.0.1"


def command(chosen: argparse.Namespace) -> str:
    """What a browser tab runs: these flags without --serve; the storage goes through the environment."""
    words = [sys.executable, "-m", "kdnas_tui"]
    words += [chosen.study] if chosen.study else []
    words += ["--preset", chosen.preset] if chosen.preset else []
    words += [flag for flag, given in (("--demo", chosen.demo), ("--ascii", chosen.ascii)) if given]
    return shlex.join(words)


def tunnel(port: int) -> str:
    return f"ssh -L {port}:{LOOPBACK}:{port} {getpass.getuser()}@{socket.getfqdn()}"


def serve(chosen: argparse.Namespace, storage: str) -> int:
    """Serve until interrupted. Raises UsageError where the extra is missing or the port is taken."""
    try:
        from textual_serve.server import Server
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
    print(f"kdnas-tui on http://{LOOPBACK}:{port}, for this machine only; Ctrl-C ends it.", file=sys.stderr)
    print(f"From elsewhere: {tunnel(port)}", file=sys.stderr)
    os.environ["KDNAS_STORAGE"] = storage  # its password is nothing for the list of processes
    Server(command(chosen), host=LOOPBACK, port=port, title="kdnas").serve()
    return 0

"""Takes the password of a store's address off this process's command line, which everybody on the machine can read."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from kdnas.store import addresses
from kdnas.system.errors import UsageError


def hide_passwords() -> None:
    """Starts this process's program again, in the same process, with the address in its environment. Does nothing where
    no word of the command line is an address that keeps something secret."""
    given = sys.orig_argv
    words, address = without_passwords(given)
    if address is not None:
        os.environ["KDNAS_STORAGE"] = address
        os.execv(sys.executable, words)


def without_passwords(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The words with the address as it may be shown, and the address; None where no word keeps anything secret, or
    several words do, each another."""
    found, whole = [], set()
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        hidden = _shown(value)
        if hidden is not None:
            whole.add(value)
        found.append(word if hidden is None else f"{option}{equals}{hidden}")
    return (found, whole.pop()) if len(whole) == 1 else (list(words), None)


def _shown(word: str) -> str | None:
    """A word that is an address with a secret, without it; None for any other word, and for a mistyped address, which
    is refused at once."""
    if "://" not in word or not ("@" in word or "?" in word):
        return None
    try:
        url = addresses.store_url(word)
    except UsageError:
        return None
    return addresses.shown(url) if addresses.secrets(url) - {addresses.HIDDEN} else None

"""The password of a PostgreSQL store from the keyring of whoever is logged in, where `keyring` is installed.

`keyring set kdnas postgresql://USER@HOST/DATABASE` puts one there: the service is `kdnas`, its user the address. It
is asked for only where neither the address nor PGPASSWORD has one, and then comes before ~/.pgpass. Stores nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import os

from sqlalchemy.engine import URL

SERVICE = "kdnas"
_OTHER_WAYS = ("password", "passfile", "service", "sslpassword")  # in an address: libpq knows where to look


def completed(url: URL) -> URL:
    """The address with the password that the keyring has for it; as it is where it has none, or cannot be read."""
    if url.password or os.environ.get("PGPASSWORD") or any(name in url.query for name in _OTHER_WAYS):
        return url
    found = _kept(url.set(drivername="postgresql").render_as_string())
    return url if found is None else url.set(password=found)


@functools.cache
def _kept(address: str) -> str | None:
    """Asked once in a process: some keyrings take a tenth of a second to answer."""
    if importlib.util.find_spec("keyring") is None:
        return None
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(SERVICE, address) or None
    except KeyringError:  # none on this machine, or locked: the server says that a password is missing
        return None

"""Addresses of stores by chance, some with a password in them."""

from __future__ import annotations

import re

from hypothesis import strategies as st

SECRET = "S3cr3tWord"
PASSWORD = re.compile(rf"[a-z+]+:/*[^/?#@:]*:{SECRET}@")
pieces = st.one_of(
    st.sampled_from(
        ["sqlite", "postgresql", "postgres", "mysql", ":", "/", "//", "://", ":///", "@", "?", "&", "=", "%", "%40",
         "#", "user", "host", "5432", "db", "password=", "sslpassword=", SECRET, f"user:{SECRET}@host", "+psycopg", "[",
         "]", "::1", "~", "..", "\x00", "\x1b]0;t\x07", "\n", " ", "\u202e", "\udcff", "99999999", "²", "{", "}",
         "mode=ro"]
    ),
    st.text(st.characters(exclude_categories=()), max_size=6),
)  # fmt: skip
urls = st.builds(
    lambda scheme, user, host, port, rest: f"{scheme}://{user}:{SECRET}@{host}{port}/{rest}",
    st.sampled_from(["postgresql", "postgres", "postgresql+psycopg", "sqlite", "postgersql"]),
    pieces, st.sampled_from(["host", "[::1]", "", "ho st"]), st.sampled_from(["", ":5432", ":x", ":0"]), pieces,
)  # fmt: skip
addresses = st.lists(pieces, max_size=9).map("".join) | urls


def is_secret(given: str) -> bool:
    """Whether the address holds the password where one is kept secret, and nowhere else."""
    once = given.count(SECRET) == 1
    return once and (PASSWORD.match(given) is not None or f"?password={SECRET}" in given)

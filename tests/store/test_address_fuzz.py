"""Whatever is given as a store's address: it is one, or is refused in a line; a password in it is never repeated."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from kdnas.cli import frame
from kdnas.store.addresses import shown, store_url
from kdnas.system.errors import KdnasError
from tests.study.test_fuzz import fuzzed

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


@fuzzed(st.lists(pieces, max_size=9).map("".join) | urls)
def test_any_address_is_one_or_is_refused(given: str) -> None:
    once = given.count(SECRET) == 1
    secret = once and (PASSWORD.match(given) is not None or f"?password={SECRET}" in given)
    try:
        url = store_url(given)
        said = [shown(url)]
        if url.get_backend_name() != "sqlite":
            said.append(frame.shown(given))
    except KdnasError as error:
        assert error.problem and len(str(error).splitlines()) == 1
        said = [str(error)]
    else:
        secret = secret and url.get_backend_name() != "sqlite"  # the path of a file is no secret
    assert not (secret and SECRET in " ".join(said)), said

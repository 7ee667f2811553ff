"""Whatever is given as a store's address: it is one, or is refused in a line; a password in it is never repeated."""

from __future__ import annotations

from kdnas.cli import frame
from kdnas.store.addresses import shown, store_url
from kdnas.system.errors import KdnasError
from tests.fuzzing import fuzzed
from tests.odd_addresses import SECRET, addresses, is_secret


@fuzzed(addresses)
def test_any_address_is_one_or_is_refused(given: str) -> None:
    secret = is_secret(given)
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

"""`--serve` in a real browser: opened with its key, typed into, resized; a picture of it is not blank."""

from __future__ import annotations

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

from docs import browser

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        browser.browser() is None, reason="no Chromium or Chrome here: apt-get install chromium, or KDNAS_BROWSER=PATH"
    ),
]


async def test_a_browser_opens_it_types_and_resizes() -> None:
    with browser.served("--demo") as (address, said):
        assert "?key=" in address
        picture, page = await browser.filmed(address)
    assert "/ layers<=3 speedup>=2" in page.text
    assert len(set(page.sizes)) >= 2 and page.sizes[-1][0] < page.sizes[0][0], page.sizes
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    for line in said:  # no address without its key, which would be refused
        assert "http://" not in line or address in line, line


def test_the_picture_in_the_docs_is_small_and_named_there() -> None:
    assert browser.PICTURE.read_bytes().startswith(b"\x89PNG") and browser.PICTURE.stat().st_size <= 200 * 1024
    assert f"({browser.PICTURE.name})" in (browser.PICTURE.parent / "gpu-box.md").read_text(encoding="utf-8")

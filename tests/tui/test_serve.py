"""`--serve` for real: the page answers who has the key, what the app draws comes over its websocket; loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pyte
import pytest

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

PATIENCE_S = 60.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """The process, the address that it printed, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "kdnas_tui", "--serve", "--port", str(port), "--storage", str(tmp_path / "k.db")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.stderr is not None
    found = re.search(r"http://\S+", process.stderr.readline())
    assert found is not None
    assert f"ssh -L {port}:127.0.0.1:{port}" in process.stderr.readline()
    yield process, found[0], port
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stderr.close()


async def answering(session: aiohttp.ClientSession, address: str) -> aiohttp.ClientResponse:
    """The first answer, however long the server takes to listen."""
    for _ in range(int(PATIENCE_S / 0.1)):
        try:
            return await session.get(address)
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.1)  # between looks at a port
    raise AssertionError(f"{address} never answers")


@contextlib.asynccontextmanager
async def opened(address: str) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A browser that has brought the key, and what it got."""
    jar = aiohttp.CookieJar(unsafe=True)  # takes cookies of a bare address, as browsers do
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        page = await answering(browser, address)
        assert (page.status, str(page.url)) == (200, address.partition("?")[0])
        yield browser, await page.text()


@contextlib.asynccontextmanager
async def tab(
    browser: aiohttp.ClientSession, port: int
) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, Callable[[str], Awaitable[None]]]]:
    """The screens in a browser's tab: their connection, and a way to wait for words on them."""
    screen = pyte.Screen(100, 30)
    stream = pyte.ByteStream(screen)
    async with browser.ws_connect(f"http://127.0.0.1:{port}/ws?width=100&height=30") as connection:

        async def until(words: str) -> None:
            while words not in "\n".join(screen.display):
                message = await connection.receive(PATIENCE_S)
                assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
                if message.type is aiohttp.WSMsgType.BINARY:
                    stream.feed(message.data)

        yield connection, until


async def ended(processes: list[psutil.Process]) -> bool:
    for _ in range(int(PATIENCE_S / 0.1)):
        if not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes):
            return True
        await asyncio.sleep(0.1)  # between looks at the processes
    return False


async def test_the_page_and_the_app_answer_who_has_the_key(served: tuple[subprocess.Popen[str], str, int]) -> None:
    process, address, port = served
    plain = f"http://127.0.0.1:{port}/"
    async with aiohttp.ClientSession() as stranger:
        refused = await answering(stranger, plain)
        assert refused.status == 403
        assert "holds a key" in await refused.text()
        assert (await stranger.get(f"{plain}?key=guessed")).status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await stranger.ws_connect(f"{plain}ws")

    listening = [c for c in psutil.Process(process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}

    async with opened(address) as (browser, page):
        assert f"ws://127.0.0.1:{port}/ws" in page
        assert (await browser.get(f"{plain}static/js/textual.js")).status == 200
        async with tab(browser, port) as (connection, until):
            await until("No study yet. Press n to begin one.")
            await connection.send_json(["stdin", "n"])
            await until("new study")
            children = psutil.Process(process.pid).children(recursive=True)
            assert children
        assert await ended(children), "the screens outlive their tab"
    assert process.poll() is None


async def test_the_screens_end_with_a_server_that_is_killed(served: tuple[subprocess.Popen[str], str, int]) -> None:
    process, address, port = served
    async with opened(address) as (browser, _), tab(browser, port) as (_, until):
        await until("No study yet. Press n to begin one.")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.kill()
        assert await ended(children), "the screens outlive their server"

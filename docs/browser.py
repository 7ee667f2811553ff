"""Takes a picture of `kdnas-tui --serve` in a browser: `python -m docs.browser` writes docs/browser.png.

Opens the address with its key in a headless Chromium, filters, and resizes the window. Drives it through its DevTools
protocol; what the screens draw is read from the frames of the browser's own websocket.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pyte

PICTURE = Path(__file__).with_name("browser.png")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
PATIENCE_S = 120.0
WIDEST = (400, 200)  # columns and lines of the emulator, more than any window here has


def browser() -> str | None:
    """The browser that is installed."""
    named = os.environ.get("KDNAS_BROWSER")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


class Page:
    """One tab of the browser, and what the screens have drawn in it."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection
        self._asked = 0
        self._screen = pyte.Screen(*WIDEST)
        self._stream = pyte.ByteStream(self._screen)
        self.sizes: list[tuple[int, int]] = []  # that the browser told the screens, columns and lines

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its answer."""
        self._asked += 1
        await self._connection.send_json({"id": self._asked, "method": method, "params": parameters})
        while True:
            said = await self._next()
            if said.get("id") == self._asked:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                answer: dict[str, Any] = said["result"]
                return answer

    async def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            left = end - time.monotonic()
            try:
                await asyncio.wait_for(self._next(), left)
            except TimeoutError:
                raise RuntimeError(f"waited in vain until {what}\n{self.text}") from None

    async def _next(self) -> dict[str, Any]:
        message = await self._connection.receive()
        said: dict[str, Any] = json.loads(message.data)
        frame = said.get("params", {}).get("response", {})
        if said.get("method") == "Network.webSocketFrameReceived" and frame["opcode"] == 2:
            self._stream.feed(base64.b64decode(frame["payloadData"]))
        elif said.get("method") == "Network.webSocketFrameSent" and frame["opcode"] == 1:
            kind, *rest = json.loads(frame["payloadData"])
            if kind == "resize":
                self.sizes.append((int(rest[0]["width"]), int(rest[0]["height"])))
        return said

    async def type(self, text: str) -> None:
        """Letter by letter, as from a keyboard; a line's end is Enter."""
        for letter in text:
            key, said = ("Enter", "\r") if letter == "\n" else (letter, letter)
            code = {"windowsVirtualKeyCode": 13} if letter == "\n" else {}
            await self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=said, unmodifiedText=said, **code)
            await self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    async def resize(self, width: int, height: int) -> None:
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def picture(self) -> bytes:
        """A PNG of what is drawn."""
        return base64.b64decode((await self.ask("Page.captureScreenshot", format="png"))["data"])


@contextlib.asynccontextmanager
async def opened(address: str, width: int, height: int) -> AsyncIterator[Page]:
    """The address in a browser of its own, which ends with the context."""
    program = browser()
    if program is None:
        raise SystemExit("There is no Chromium or Chrome here. Name one with KDNAS_BROWSER.")
    with tempfile.TemporaryDirectory(prefix="kdnas-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            port = next(found[1] for line in lines if (found := re.search(r"listening on ws://[^:]+:(\d+)/", line)))
            async with aiohttp.ClientSession() as session:
                targets = await (await session.get(f"http://127.0.0.1:{port}/json")).json()
                place = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
                async with session.ws_connect(place, max_msg_size=0) as connection:
                    page = Page(connection)
                    await page.ask("Network.enable")
                    await page.ask("Page.enable")
                    await page.resize(width, height)
                    await page.ask("Page.navigate", url=address)
                    yield page
        finally:
            process.kill()
            process.wait()
            process.stderr.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[tuple[str, list[str]]]:
    """`kdnas-tui --serve` with these arguments: the address with its key, and all lines that it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "kdnas_tui", "--serve", "--port", str(port), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        said = [process.stderr.readline(), process.stderr.readline()]
        found = re.search(r"http://\S+", said[0])
        assert found is not None, said
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)  # between looks at a port
        yield found[0], said
    finally:
        process.terminate()
        process.wait()
        said += process.stderr.readlines()
        process.stderr.close()


async def filmed(address: str) -> tuple[bytes, Page]:
    """Open, filter, resize, and take a picture; the page as it was at the end."""
    async with opened(address, 1400, 800) as page:
        await page.until(lambda: "FINISHED" in page.text and "latency ms" in page.text, "the study is shown")
        await page.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        await page.ask("Runtime.evaluate", expression="document.querySelector('.xterm-helper-textarea').focus()")
        await page.type("/layers<=3 speedup>=2\n")
        await page.until(lambda: re.search(r"/ layers<=3 speedup>=2 +\d+ of \d+", page.text), "the filter is used")
        before = page.sizes[-1] if page.sizes else (0, 0)
        await page.ask("Emulation.setScrollbarsHidden", hidden=True)  # they take cells of the last row and column
        await page.resize(1200, 720)
        await page.until(lambda: page.sizes and page.sizes[-1] != before, "the browser tells its new size")
        await page.until(lambda: "FINISHED" in page.text, "it is drawn anew")
        await asyncio.sleep(3.0)  # the browser draws what it has got
        return await page.picture(), page


def main() -> None:
    with served("--demo") as (address, _):
        picture, page = asyncio.run(filmed(address))
    PICTURE.write_bytes(picture)
    print(PICTURE, f"{len(picture) / 1024:.0f} KiB", page.sizes)


if __name__ == "__main__":
    main()

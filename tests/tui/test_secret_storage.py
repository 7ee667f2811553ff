"""What the screens start shows no password in the list of processes, and reaches the store all the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdnas_tui import workers

SECRET = "postgresql://me:SECRET@127.0.0.1:1/db"
STARTS: dict[str, Callable[[str], object]] = {
    "begin": lambda url: workers.begin("", "x", url, 2),
    "resume": lambda url: workers.resume("x", url),
    "delete": lambda url: workers.delete("x", url),
    "add_worker": lambda url: workers.add_worker("x", url),
    "launch": lambda url: workers.launch(["finalize", "x", "--storage", url], "x"),
    "plan": lambda url: workers.plan("", url).answer(),
    "importance": lambda url: workers.importance("x", url).answer(),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_password_stands_in_the_list_of_processes(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tmp_path / "heard"
    script = tmp_path / "kdnas.py"
    script.write_text(
        "import json, os, sys, pathlib\n"
        f"new = pathlib.Path({str(heard)!r} + '.new')\n"
        "new.write_text(json.dumps([sys.argv[1:], os.environ.get('KDNAS_STORAGE')]))\n"
        f"new.rename({str(heard)!r})\n"
        "print('{}')\n"
    )
    monkeypatch.setattr(workers, "KDNAS", (sys.executable, str(script)))
    monkeypatch.setattr(workers, "IMPORTANCE", (sys.executable, str(script)))
    started = []
    popen = workers.subprocess.Popen
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    for url in (SECRET, "sqlite:///x.db"):
        STARTS[start](url)
        started[-1].wait()
        words, storage = json.loads(heard.read_text())
        assert "SECRET" not in " ".join(words)
        assert storage == (SECRET if url == SECRET else None)
        assert ("--storage" in words) == (url != SECRET)

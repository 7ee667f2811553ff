"""A page opened in a real browser without a network, and what a script finds in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("KDNAS_BROWSER") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome here: apt-get install chromium, or KDNAS_BROWSER=/path/to/one"
)


def opened(page: Path, script: str) -> dict[str, Any]:
    """What `script` found after the page was loaded in a browser without network, and every error of the page's."""
    watch = """
<script>
window.__errors = [];
window.addEventListener("error", event => window.__errors.push(event.message));
document.addEventListener("securitypolicyviolation", event => window.__errors.push("policy: " + event.blockedURI));
</script>"""
    ask = f"""
<script>
window.addEventListener("load", () => {{
  const found = (() => {{ {script} }})();
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify({{...found, errors: window.__errors}});
  document.body.append(out);
}});
</script>"""
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head>{watch}{ask}", 1)  # before its policy
    probe = page.with_name("probe.html")
    probe.write_text(text, encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}",
            "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match is not None, done.stdout[-2000:]
    found: dict[str, Any] = json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    found["console"] = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return found

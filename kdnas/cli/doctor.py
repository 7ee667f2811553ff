"""What kdnas finds on this machine: device, libraries, storage, caches, terminal, network, and the hint for what is
missing. Looks and never changes anything; slow (it imports torch), so that a screen asks it of another process.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from kdnas import __version__
from kdnas.data import hub, shipped
from kdnas.system import paths, tmux
from kdnas.system.errors import UsageError, first_line

State = Literal["found", "optional", "missing"]
LITTLE_SPACE = 2 * 1024**3  # bytes below which a study may not get through
CLIPBOARDS = ("iTerm.app", "WezTerm", "ghostty", "kitty", "Alacritty", "contour", "rio", "vscode", "WarpTerminal")
EXTRAS = {  # extra of pyproject.toml → what it is for, and the packages that it brings
    "postgres": ("several machines on one store", ("psycopg",)),
    "keyring": ("the store's password in a keyring", ("keyring",)),
    "gpu": ("GPU use on the screen", ("nvidia-ml-py",)),
    "causal": ("causal models, ROUGE", ("gguf", "accelerate", "rouge-score")),
    "classify": ("Word2Vec for rnn-hybrid", ("gensim",)),
    "eval": ("kdnas evaluate", ("accelerate",)),
    "lora": ("LoRA adapters", ("peft", "accelerate")),
    "llama-cpp": ("finalize --gguf, checked and timed in llama.cpp", ("xllamacpp",)),
    "onnx": ("finalize --onnx", ("onnx", "onnxruntime", "onnxscript")),
    "ray": ("search --engine ray", ("ray",)),
    "report": ("reports with pictures", ("matplotlib",)),
    "web": ("kdnas-tui --serve", ("textual-serve", "aiohttp")),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked for. `missing` keeps kdnas from working, `optional` only makes it poorer."""

    subject: str
    state: State
    what: str
    hint: str = ""


def examine(storage: str) -> Iterator[Finding]:
    """Every finding, as it is made, the quick ones first."""
    yield Finding("python", "found", f"{sys.version.split()[0]}, kdnas {__version__}")
    yield from _libraries()
    yield from _terminal()
    yield _storage(storage)
    yield from _folders()
    yield from _assets()
    yield _hub()
    yield from _device()


def _libraries() -> Iterator[Finding]:
    found = []
    for name in ("torch", "transformers", "datasets", "optuna", "sqlalchemy", "textual"):
        version = _version(name)
        if version is None:
            yield Finding("libraries", "missing", f"{name} is not installed", "Install kdnas again.")
        else:
            found.append(f"{name} {version}")
    yield Finding("libraries", "found", ", ".join(found))
    for extra, (use, names) in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        absent = [name for name, version in versions.items() if version is None]
        if absent:
            hint = f"Run `pip install 'kdnas[{extra}]'` if you want it."
            yield Finding("extras", "optional", f"{extra}: {', '.join(absent)} not installed ({use})", hint)
        else:
            listed = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Finding("extras", "found", f"{extra}: {listed} ({use})")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _terminal() -> Iterator[Finding]:
    term = os.environ.get("TERM", "")
    if not sys.stderr.isatty() or term in ("", "dumb"):
        hint = "kdnas-tui needs one; `kdnas search` does the same without."
        yield Finding("terminal", "optional", f"none to draw on (TERM={term or 'unset'})", hint)
        return
    size = os.get_terminal_size(sys.stderr.fileno())
    if size.columns < 60 or size.lines < 16:
        hint = "From 60×16 on it shows panes, from 120×36 on all of them."
        yield Finding("terminal", "optional", f"{size.columns}×{size.lines}: kdnas-tui shows a status card", hint)
    else:
        yield Finding("terminal", "found", f"{term}, {size.columns}×{size.lines}")
    if os.environ.get("NO_COLOR"):
        yield Finding("colours", "optional", "switched off by NO_COLOR", "Unset it to have them.")
    elif os.environ.get("COLORTERM") in ("truecolor", "24bit"):
        yield Finding("colours", "found", "16 million")
    else:
        few = "256" if "256" in term else "16"
        yield Finding("colours", "optional", few, "Set COLORTERM=truecolor where your terminal can show more.")
    yield _clipboard()


def _clipboard() -> Finding:
    fallback = "What is copied is always written to a file too."
    if os.environ.get("TMUX"):
        state = tmux.set_clipboard(os.environ)
        if state == "on":
            return Finding("clipboard", "found", "tmux passes copies on (OSC 52)")
        hint = f"Put `{tmux.SETTING}` into ~/.tmux.conf. {fallback}"
        return Finding("clipboard", "optional", f"tmux drops copies (set-clipboard is {state or 'unknown'})", hint)
    program = os.environ.get("TERM_PROGRAM", "")
    if program in CLIPBOARDS or any(word in os.environ.get("TERM", "") for word in ("kitty", "alacritty", "ghostty")):
        return Finding("clipboard", "found", f"{program or os.environ['TERM']} takes copies (OSC 52)")
    return Finding("clipboard", "optional", "whether this terminal takes copies (OSC 52) is not known", fallback)


def _storage(storage: str) -> Finding:
    from kdnas.store import queries
    from kdnas.store.addresses import store_url
    from kdnas.store.database import open_store

    try:
        address = store_url(storage)
        path = Path(str(address.database))
        if address.get_backend_name() == "sqlite" and not path.exists():
            folder = _nearest(path.parent)
            if os.access(folder, os.W_OK):
                return Finding("storage", "found", f"{path} (made by the first study)")
            return Finding("storage", "missing", f"{folder} may not be written", "Give a --storage elsewhere.")
        with open_store(storage) as store:
            count = len(queries.study_rows(store))
            return Finding("storage", "found", f"{store.place}, {count} {'study' if count == 1 else 'studies'}")
    except UsageError as error:
        return Finding("storage", "missing", error.problem, error.hint)


def examine_store(storage: str) -> Iterator[Finding]:
    """Whether the store is whole. Raises UsageError where it cannot be opened."""
    from kdnas.store.check import check
    from kdnas.store.database import open_reader

    states: dict[str, State] = {"whole": "found", "unfinished": "optional", "damaged": "missing"}
    with open_reader(storage) as store:
        for found in check(store):
            yield Finding("store", states[found.state], found.what, found.hint)


def _nearest(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _folders() -> Iterator[Finding]:
    for subject, folder, variable in (
        ("cache", paths.cache_folder(), "KDNAS_CACHE"),
        ("state", paths.state_folder(), "KDNAS_STATE"),
    ):
        there = _nearest(folder)
        if not os.access(there, os.W_OK):
            yield Finding(subject, "missing", f"{folder} may not be written", f"Name another folder in {variable}.")
            continue
        free = shutil.disk_usage(there).free
        words = f"{folder}, {free / 1024**3:.1f} GiB free"
        if free < LITTLE_SPACE:
            yield Finding(subject, "missing", words, f"Make room, or name another folder in {variable}.")
        else:
            yield Finding(subject, "found", words)


def _assets() -> Iterator[Finding]:
    here = [shelf.asset.name for shelf in shipped.shelves() if shelf.present]
    away = [shelf.asset.name for shelf in shipped.shelves() if not shelf.present]
    if here:
        yield Finding("assets", "found", ", ".join(here))
    if away:
        hint = f"A study fetches what it needs; `kdnas assets fetch {away[0]}` does so now."
        yield Finding("assets", "optional", f"not fetched: {', '.join(away)}", hint)


def _hub() -> Finding:
    if hub.offline():
        return Finding("hub", "optional", "switched off by HF_HUB_OFFLINE", "Unset it to fetch models and data sets.")
    if hub.reachable():
        return Finding("hub", "found", "the Hugging Face hub answers")
    hint = "What ships and local folders and files work without it."
    return Finding("hub", "optional", "the Hugging Face hub cannot be reached", hint)


def _device() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load > cores:
        hint = "Latency is measured best on a quiet machine; doubtful figures are flagged. "
        hint += "Beside other busy programs OMP_NUM_THREADS=1 trains faster than a thread on every core."
        yield Finding("processor", "optional", f"{cores} cores, busy (load {load:.1f})", hint)
    else:
        yield Finding("processor", "found", f"{cores} cores, load {load:.1f}")
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    began = time.monotonic()
    try:
        import torch
    except Exception as error:  # a broken build fails in many ways
        problem = f"cannot be imported: {first_line(error)}"
        yield Finding("torch", "missing", problem, "Install torch again, as the README says.")
        return
    yield Finding("torch", "found", f"{torch.__version__}, imported in {time.monotonic() - began:.1f} s")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            memory = f"{facts.total_memory / 1024**3:.0f} GiB"
            yield Finding("gpu", "found", f"cuda:{index} {facts.name}, {memory}")
    elif torch.backends.mps.is_available():
        yield Finding("gpu", "found", "mps")
    elif driver:
        hint = "Install a torch built for CUDA, as the README says."
        yield Finding("gpu", "optional", f"there is one, but torch {torch.__version__} cannot use it", hint)
    else:
        yield Finding("gpu", "optional", "none", "Studies run on the processor.")

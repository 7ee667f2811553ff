"""Text that people and files bring, full of escape sequences and marks: looked at on a pseudo-terminal, whose title,
clipboard and modes stay; read back from the model card and the report."""

from __future__ import annotations

import json
import os
import pty
import re
import sqlite3
from typing import Any

from huggingface_hub import ModelCard

from benchmarks.torture.faults import Fault, Ground, Lost
from benchmarks.torture.searches import file_store, finish, spec_of
from benchmarks.torture.terminals import Screen
from kdnas.search.begin import begin
from kdnas.students.model_card import card
from kdnas.students.origin import Origin
from kdnas.study.spec import from_values
from kdnas.system.text import clean
from tests.forks import Forked, run

PIECES = (
    "\x1b]0;title\x07", "\x1b]52;c;aGVsbG8=\x07", "\x1bP+q544e\x1b\\", "\x1b[2J\x1b[H", "\x9b31m", "\x1b[?1049l",
    "\x1bc", "\x07", "\x00", "\x7f", "\x85", "\u2028", "\u202edrow\u2066", "\r\nkdnas: forged", "\x1b[6n", "\x1b[c",
    "\x1b#8",
    "\n\n# Owned\n", "\n---\nlicense: mit\n---\n", "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>",
    "| a | b |", "``` ", "[a](javascript:b)", "{{ 7*7 }}", "%s%n", "[bold]x[/bold]", "e\u0301", "\u4e2d\u6587",
    "'; --", "\ufeff",
)  # fmt: skip
# What may move, tell or set something; of escape sequences a command sends colours and clears its own line only.
ALLOWED = re.compile(rb"\x1b\[[0-9;]*m|\x1b\[2K|\x1b\[K|\x1b\[\?25[hl]|\x1b\[1A|\r|\n")
UNSEEN = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
REPORTED = (b"\x1b]0;", b"\x1b]2;", b"\x1b]52;", b"\x1bP+q", b"\x1bc", b"\x1b#8", b"\x1b[6n")


def evil(ground: Ground) -> str:
    return "x" + "".join(PIECES[int(n)] for n in ground.rng.integers(0, len(PIECES), int(ground.rng.integers(2, 9))))


def hostile_store(ground: Ground) -> str:
    """A finished study in which every field that people or files fill is hostile."""
    place = file_store(ground)
    begin(spec_of("random", ground.seed, budget={"trials": 4}), place)
    finish(ground, place)
    rows = sqlite3.connect(place, isolation_level=None)
    spec = json.loads(rows.execute("SELECT spec FROM kdnas_study").fetchone()[0])
    spec["teacher"]["model"], spec["data"]["source"] = evil(ground), evil(ground)
    rows.execute("UPDATE kdnas_study SET spec = ?, ending = ?", (json.dumps(spec), evil(ground)))
    candidate = json.dumps({"num_hidden_layers": evil(ground), evil(ground): 3})
    said = (evil(ground), evil(ground), candidate)
    rows.execute("UPDATE kdnas_trial SET error = ?, latency_flag = ?, candidate = ?", said)
    rows.execute("UPDATE kdnas_trial SET state = 'failed' WHERE number = 2")
    rows.execute("UPDATE kdnas_log SET line = ?, level = 'error'", (evil(ground),))
    rows.execute(
        "UPDATE kdnas_worker SET host = ?, device = ?, doing = ?, error = ?", tuple(evil(ground) for _ in range(4))
    )
    rows.execute("INSERT INTO kdnas_remark VALUES (1, 0, 1, ?, ?)", (evil(ground), evil(ground)))
    rows.close()
    return place


def on_terminal(ground: Ground, *words: str) -> bytes:
    """What a command sends to a terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    process = Forked(lambda: run(["kdnas.cli", *words], ground.folder, environment, slave, slave))
    ground.processes.append(process)
    os.close(slave)
    sent = b""
    try:
        while True:
            chunk = os.read(master, 1 << 16)
            if not chunk:
                break
            sent += chunk
    except OSError:
        pass
    os.close(master)
    ground.ended(process, words[0])
    return sent


def commands(ground: Ground) -> int:
    place = hostile_store(ground)
    looks = (
        ["studies"], ["show", "fake"], ["logs", "fake"], ["show", "fake", "--json"],
        ["export", "fake", "--format", "csv"], ["export", "fake", "--format", "markdown"], ["doctor", "--store"],
        ["compare", "fake", "fake"],
        ["show", evil(ground).replace("\x00", "")], ["rescore", "fake", "--alpha", "-0.2", "--beta", "0.5"],
    )  # fmt: skip
    for words in looks:
        sent = on_terminal(ground, *words, "--storage", place)
        text = ALLOWED.sub(b"", sent).decode("utf-8", "replace")
        found = UNSEEN.findall(text)
        if found:
            raise Lost(f"`kdnas {words[0]}` sends {found[:3]!r}")
        if b"Traceback" in sent:
            raise Lost(f"`kdnas {words[0]}` ends in a traceback")
        if any(line.startswith("kdnas: forged") for line in text.splitlines()):
            raise Lost(f"`kdnas {words[0]}` prints a forged line")
    return len(looks)


def screens(ground: Ground) -> int:
    place = hostile_store(ground)
    screen = Screen(ground, "fake", "--storage", place)
    try:
        screen.until("FINISHED")
        asked = {each: screen.bytes.count(each) for each in REPORTED}
        for key in (b"j", b"j", b"\r", b"\x1b", b"l", b"\x1b", b"i", b"\x1b", b"\t", b"j"):
            screen.send(key)
            screen.reads_for(0.25)
        new = [each for each in REPORTED if screen.bytes.count(each) > asked[each]]
        titles = [each for each in screen.emulator.titles if "title" in each]  # Textual's own set the pointer's shape
        if new or titles:
            raise Lost(f"the terminal was sent {new or titles}")
        screen.send(b"\x1b")
        os.kill(screen.process.pid, 15)
        screen.ended()
        screen.gave_back()
    finally:
        screen.close()
    return 1


def cards(ground: Ground) -> int:
    """The card's front matter, read back, is what was meant; its body has no heading and no tag from outside."""
    for _ in range(20):
        name = evil(ground)
        spec = from_values({"teacher": {"model": name.replace("\x00", "") or "x"}}).model_dump(mode="json")
        facts: dict[str, Any] = {
            "format": "kdnas-model", "version": 1, "kdnas": "0.1.0", "written": evil(ground), "run": "x",
            "study": evil(ground), "trial": 3, "spec": spec, "candidate": {evil(ground): evil(ground)},
            "config": {"model_type": evil(ground)}, "seed": 7, "parameters": 1, "dtype": evil(ground),
            "opens_with": "AutoModel", "teacher": {"model": name, "fingerprint": evil(ground)},
            "data": {"source": "x", "fingerprint": evil(ground)}, "versions": {"torch": evil(ground)},
            "metrics": {"loss": 0.25, "raw_loss": 0.01, "best_epoch": 4, "epochs": 6, "stopped_early": True,
                        "tokens": 1},
            "latency": {"student_ms": 2.0, "teacher_ms": 9.0, "speedup": 4.5, "device": evil(ground),
                        "flag": evil(ground)},
        }  # fmt: skip
        licence = evil(ground)
        read = ModelCard(card(facts, Origin(name, name, name, licence, (evil(ground),), name)))
        if read.data.to_dict()["license"] != clean(licence):
            raise Lost(f"the card says another licence: {read.data.to_dict()['license']!r}")
        outside = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", read.text, flags=re.DOTALL)
        if "<img" in outside or "<script" in outside or "[a](javascript" in outside:
            raise Lost("the card holds markup from outside")
        if [line for line in read.text.splitlines() if line.startswith("# ") and "A student of" not in line]:
            raise Lost("the card has a heading from outside")
        if UNSEEN.search(str(read)):
            raise Lost("the card holds control characters")
    return 20


FAULTS = [
    Fault("text", "hostile, in what commands print", commands, quick=True),
    Fault("text", "hostile, on the screens", screens),
    Fault("text", "hostile, in a model card", cards, 0.3, quick=True),
]

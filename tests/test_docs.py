"""The documentation can be followed: commands parse, links resolve, sentences are short, words are the field's."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy
from kdnas.study.spec import from_values
from kdnas.study.spec_flags import overlay
from kdnas.study.spec_toml import read_values
from kdnas.system import paths

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
MOST_WORDS = 35
HOUSEHOLD = re.compile(
    r"\b(mend|mends|mended|mending|dearest|dearer|tells? apart|told by|guests"
    r"|anew|yardsticks?|foresee[ns]?|kept by|made-up)\b",
    re.IGNORECASE,
)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> Iterator[str]:
    """The code blocks, fenced ones of a shell and indented ones."""
    text = page.read_text(encoding="utf-8")
    for fence, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if fence in ("", "sh", "console"):
            yield body
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield "\n".join(line[4:] if line.startswith("    ") else "" for line in plain.splitlines())


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Every `kdnas …` of the page, and whether it stands in a block: there it is a whole command."""
    text = page.read_text(encoding="utf-8")
    written = [line for body in blocks(page) for line in body.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(kdnas [a-z][^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    listed = [(line, True) for line in written] + [(" ".join(one.split()), False) for one in inline]
    for line, whole in listed:
        for part in re.split(r";|&&|\|(?=\s)", line.partition(" #")[0]):
            words = part.strip()
            words = re.sub(r"^((\.venv|\$VENV)/bin/|python -m )", "", words)
            if words.startswith("kdnas ") and not re.search(r"[…\[\]]", words):
                yield [re.sub(r"^[A-Z]$", "1", word) for word in shlex.split(words)[1:]], whole  # N, X: a number


def sentences(page: Path) -> Iterator[str]:
    """The sentences of the running text: no code, tables, headings or pictures; code counts as one word."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = "\n".join("" if re.match(r"\s*\||#|    |<|!\[", line) else line for line in text.splitlines())
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"et al\.|e\.g\.|i\.e\.", "etal", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)", text):
        for sentence in re.split(r"(?<=[.!?])[)”*]*\s+", paragraph):
            words = sentence.replace("*", " ").split()
            if words:
                yield " ".join(words)


@every_page
def test_every_command_parses(page: Path) -> None:
    root = Lazy("kdnas", COMMANDS)
    for words, whole in commands(page):
        name, *arguments = words
        command = root.get_command(click.Context(root), name)
        assert command is not None, f"there is no kdnas {name}"
        if "--help" in arguments or not (arguments or whole):
            continue
        try:
            context = command.make_context(name, list(arguments))
        except click.MissingParameter:
            assert not whole, f"kdnas {shlex.join(words)} lacks something"
            continue
        except click.UsageError as error:
            raise AssertionError(f"kdnas {shlex.join(words)}: {error.format_message()}") from None
        if "settings" in context.params:
            check_fields(context.params)


def check_fields(params: dict[str, object]) -> None:
    """Fields that --set names are fields of the spec."""
    from kdnas.cli.spec_options import given_fields

    values = dict(params)
    preset = values.get("preset")
    base = read_values(paths.preset(str(preset))) if preset else {"name": "x"}
    from_values(overlay(base, given_fields(values).items()))


@every_page
def test_every_link_resolves(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        where, _, anchor = target.partition("#")
        file = (page.parent / where).resolve() if where else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


@every_page
def test_every_file_that_is_named_is_there(page: Path) -> None:
    for name in re.findall(r"`((?:kdnas|kdnas_tui|tests|benchmarks|studies|docs)/[\w./-]+\.\w+)`", page.read_text()):
        if page.name != "CHANGELOG.md" and name != "studies/kdnas.db":
            assert (ROOT / name).exists(), name


@every_page
def test_no_sentence_needs_a_second_reading_for_its_length(page: Path) -> None:
    long = {sentence: count for sentence in sentences(page) if (count := len(sentence.split())) > MOST_WORDS}
    assert not long, "\n".join(f"{count} words: {sentence}" for sentence, count in long.items())


@every_page
def test_words_are_the_fields(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))
    assert not HOUSEHOLD.findall(text)


def test_every_page_is_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert page.name == "README.md" or page.name in text, page.name


def test_the_rooms_of_the_page_are_those_that_are_checked() -> None:
    """The table in docs/architecture.md, top to bottom, is the layers contract."""
    rows = re.findall(r"^\| `(\w+)/?`", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers" and one["containers"] == ["kdnas"])
    rooms = [room.strip() for layer in layers for room in layer.split("|")]
    assert rows[: len(rooms)] == rooms


def test_every_shipped_preset_is_told_of() -> None:
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in paths.presets() if name not in told] == []


def test_the_checker_sees_what_it_is_for(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n\nOne `kdnas show x --no-such` two.\n\n" + "word " * 36 + ".\n\n    kdnas nothing; kdnas plan\n"
    )
    assert [words[0] for words, _ in commands(page)] == ["nothing", "plan", "show"]
    assert max(len(sentence.split()) for sentence in sentences(page)) > MOST_WORDS

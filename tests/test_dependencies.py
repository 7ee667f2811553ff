"""What the code imports is declared in pyproject.toml, and every dependency has a ceiling."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_WORK = ("test", "lint", "mutants")  # extras of those who work on kdnas
USED = [each for extra, those in PROJECT["optional-dependencies"].items() if extra not in FOR_WORK for each in those]


def name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def imported() -> dict[str, str]:
    """Each package that is imported, and a file that does."""
    found: dict[str, str] = {}
    for path in (p for room in ("kdnas", "kdnas_tui") for p in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {each.partition(".")[0]: str(path.relative_to(ROOT)) for each in names}
    return found


def test_something_is_imported_that_nothing_declares() -> None:
    declared = {name(requirement) for requirement in [*PROJECT["dependencies"], *USED]}
    known = packages_distributions()
    for package, path in imported().items():
        if package in sys.stdlib_module_names or package in ("kdnas", "kdnas_tui"):
            continue
        owners = {name(owner) for owner in known.get(package, [package])}
        assert owners & declared, f"{path} imports {package} of {sorted(owners)}"


def test_a_dependency_has_no_ceiling() -> None:
    for requirement in [*PROJECT["dependencies"], *USED]:
        assert "<" in requirement, requirement

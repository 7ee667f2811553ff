"""The screens are up in half a second because nothing heavy is imported with them."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import kdnas_tui

HEAVY = ("torch", "transformers", "datasets", "optuna")


def modules() -> list[str]:
    found = pkgutil.walk_packages(kdnas_tui.__path__, "kdnas_tui.")
    return [info.name for info in found if not info.name.endswith("__main__")]


def test_no_module_of_the_screens_imports_a_heavy_library() -> None:
    code = "\n".join(
        [
            "import importlib, sys",
            *(f"importlib.import_module({name!r})" for name in modules()),
            "from kdnas.store import changes, database, queries, recording",
            "import kdnas.study.export, kdnas.data.shipped, kdnas.study.filter, kdnas.study.trial_columns",
            f"print([name for name in {HEAVY!r} if name in sys.modules])",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

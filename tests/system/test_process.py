"""What is set for a whole process is set by commands and workers, never by importing or calling the library."""

from __future__ import annotations

import os
import subprocess
import sys

from kdnas.system.process import SETTINGS

LOOK = """
import sys
from transformers.utils import logging
before = logging.get_verbosity(), logging.is_progress_bar_enabled()
import kdnas.models.lora_adapters, kdnas.search.worker, kdnas.students.distil, kdnas.teachers.encoder
assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before, "changed"
"""
COMMAND = """
from kdnas.cli import main
try:
    main(["strategies"])
except SystemExit as end:
    assert not end.code
from transformers.utils import logging
print(logging.get_verbosity(), logging.is_progress_bar_enabled())
"""


def said(program: str, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS} | more
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_importing_kdnas_silences_the_libraries_of_another_program() -> None:
    said(LOOK)


def test_a_command_prints_the_warnings_of_libraries_or_overrides_the_users_wish() -> None:
    assert said(COMMAND).endswith("40 False\n")
    assert said(COMMAND, TRANSFORMERS_VERBOSITY="info").endswith("20 False\n")

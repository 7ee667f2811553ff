"""Puts the specs that ship into the wheel, and nothing else that lies in studies/ (a user's database, say).

An editable install needs no copy: `kdnas.system.paths` finds studies/ beside the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShippedStudies(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        studies = Path(self.root) / "studies"
        for path in [*studies.glob("*.toml"), *studies.glob("demo/*")]:
            build_data["force_include"][str(path)] = f"kdnas/presets/{path.relative_to(studies).as_posix()}"

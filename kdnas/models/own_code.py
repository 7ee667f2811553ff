"""The code of a model that transformers does not know, beside its weights: a copy of the one module that makes it.

Other programs open such a folder with `trust_remote_code`. kdnas never runs the copy: it has the module itself.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def carried(folder: Path, module: ModuleType, name: str, classes: Mapping[str, type]) -> dict[str, str]:
    """Copy `module` into a folder under `name`; the `auto_map` that a configuration needs for it, by the Auto classes
    that open `classes`."""
    shutil.copyfile(str(module.__file__), folder / name)
    return {auto: f"{Path(name).stem}.{own.__name__}" for auto, own in classes.items()}


def put_beside(model: Any, folder: Path) -> None:
    """The same for a model that came out of such a folder and has been saved into this one; nothing for any other."""
    for target in (getattr(model.config, "auto_map", None) or {}).values():
        name = f"{target.rpartition('--')[2].partition('.')[0]}.py"
        shutil.copyfile(str(sys.modules[type(model).__module__].__file__), folder / name)

"""Model folders laid out as sentence-transformers does, for tests: modules.json and what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def laid_out(folder: Path, pooling: dict[str, Any]) -> Path:
    """A model folder with a Transformer and a Pooling."""
    module(folder, "", "Transformer")
    module(folder, "1_Pooling", "Pooling", **pooling)
    return folder


def module(folder: Path, path: str, kind: str, **values: Any) -> None:
    """One module more, the last one."""
    listed = folder / "modules.json"
    known = json.loads(listed.read_text()) if listed.is_file() else []
    whole = kind if "." in kind else f"sentence_transformers.models.{kind}"
    known.append({"idx": len(known), "name": str(len(known)), "path": path, "type": whole})
    listed.write_text(json.dumps(known))
    if path:
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(values))

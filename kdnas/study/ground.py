"""The ground that results stand on: the fingerprints of teacher, tokenizer and data in a run's provenance.

Results of two grounds never stand in one table. Takes no fingerprint itself: recipes do, when they load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kdnas.system.errors import UsageError

SOURCE = "source_fingerprint"  # of the data as they were read, before anything was made of them
_PARTS = ("teacher", "tokenizer", "student", "data")


def ground_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Every fingerprint in a provenance by its name; empty where none was recorded.

    A fingerprint of data without that of its source is of an earlier version. That read some files otherwise: the same
    data may have another fingerprint now, so that it is left out.
    """
    plain = json.loads(json.dumps(dict(provenance), default=str))
    found = {name: value for name, value in plain.items() if "fingerprint" in name and name != SOURCE}
    if SOURCE not in plain:
        found.pop("data_fingerprint", None)
    for part in _PARTS:
        if isinstance(plain.get(part), dict) and "fingerprint" in plain[part]:
            found[part] = plain[part]["fingerprint"]
    return found


def require_same_ground(before: Mapping[str, Any], now: Mapping[str, Any], whose: str, hint: str) -> None:
    """Raises UsageError, naming every part that changed, where something recorded `before` differs `now`.

    `whose` completes "… that", as in "the study s was begun with". What was not recorded is not compared.
    """
    changed = [name for name, value in before.items() if now.get(name) != value]
    if not changed:
        return
    words = list(dict.fromkeys(name.removesuffix("_fingerprint").replace("_", " ") for name in changed))
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    verb = "is not the one" if len(words) == 1 and words[0] != "data" else "are not those"
    raise UsageError(f"The {listed} {verb} that {whose}.", hint)

"""The keys that a person chooses instead of the table's: what they are called, and that none has two meanings.

Reads no file and listens to nothing: `custom` reads them, `keys.use` and `keys.keymap` put them to use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from textual.keys import Keys, _character_to_key, key_to_character

from kdnas.system.errors import UsageError, nearest
from kdnas_tui import keys

_MODIFIERS = {"ctrl", "shift", "alt"}
_SAME = {"ctrl+i": "tab", "ctrl+m": "enter"}  # to a terminal
_MOVES = {name for move in keys.MOVES for name in str(getattr(move, "key", "")).split(",")}


def checked(given: Mapping[str, Mapping[str, Sequence[str]]], where: str) -> keys.Own:
    """The keys by Textual's names. Raises UsageError, which begins with `where`, for a screen, a name or a key that
    there is not, and for a key with two meanings."""
    own: dict[str, dict[str, tuple[str, ...]]] = {}
    for screen, table in given.items():
        if screen not in keys.KEYS:
            raise UsageError(f"{where}: there is no keys.{screen}.", nearest(screen, keys.KEYS))
        known = keys.named(screen)
        for name, those in table.items():
            place = f"{where}: keys.{screen}.{name}"
            if name not in known:
                raise UsageError(f"{where}: keys.{screen} has no {name!r}.", nearest(name, known))
            if not those:
                raise UsageError(f"{place} has no key.", "Give one, or leave the line out.")
            found = tuple(dict.fromkeys(canonical(one, place) for one in those))
            for one in found:
                _require_free(one, screen, known[name], place)
            own.setdefault(screen, {})[name] = found
    for screen in keys.KEYS:
        _require_one_meaning(screen, own, where)
    return own


def canonical(text: str, place: str) -> str:
    """`^s`, `S`, `?` or `f6` as Textual names it. Raises UsageError for what is no key."""
    if len(text) == 1 and text.isprintable():
        return _character_to_key(text)
    name = re.sub(r"^\^(?=.$)", "ctrl+", text.lower()) if text[:1] == "^" else text.lower()
    *modifiers, last = name.split("+")
    known = last in {str(key.value) for key in Keys} or (last != "" and key_to_character(last) is not None)
    if not known or not set(modifiers) <= _MODIFIERS or len(set(modifiers)) < len(modifiers):
        hint = "Write one character, or a name such as enter, escape, space, f6, ctrl+s or ^s."
        raise UsageError(f"{place}: {text!r} is no key.", hint)
    return _SAME.get(name, name)


def _require_free(one: str, screen: str, key: keys.Key, place: str) -> None:
    """That the key is not taken by a field that one writes in, nor by what has a cursor."""
    typed = "+" not in one and (key_to_character(one) is not None or one in ("space", "backspace", "delete"))
    if typed and (screen in keys.FORMS or (screen == "everywhere" and key.priority)):
        raise UsageError(f"{place}: {keys.shown(one)!r} is written in fields.", "Give it one with ctrl, or f1 to f12.")
    if one in _MOVES and screen not in keys.FORMS:
        raise UsageError(f"{place}: {keys.shown(one)!r} moves the cursor.", "Give it another key.")


def _require_one_meaning(screen: str, own: keys.Own, where: str) -> None:
    meanings: dict[str, str] = {}
    tables = [screen] if screen in ("dialog", "everywhere") else [screen, "everywhere"]
    shadowed = {one for key in keys.KEYS[screen] for one in key.keys.split(",")}  # the screen's own, by the table
    for table in tables:
        for name, key in keys.named(table).items():
            if table != screen and shadowed & set(key.keys.split(",")):
                continue
            for one in own.get(table, {}).get(name) or key.keys.split(","):
                if meanings.setdefault(one, name) != name:
                    raise UsageError(
                        f"{where}: on keys.{screen} {keys.shown(one)!r} is both {meanings[one]} and {name}.",
                        "Give one of them another key.",
                    )

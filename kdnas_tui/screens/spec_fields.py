"""The fields of a new study: what each says, how its text is read and checked, what ships for it.

Plain functions from text to values and back; the form that shows them is `new_study`. The spec decides what is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from kdnas.study import layer_words, spec_flags
from kdnas.study.constraints import PART
from kdnas.study.loan import AUTO, NOBODY
from kdnas.study.spec import from_values
from kdnas.study.spec_constraints import ConstraintsSpec
from kdnas.study.spec_differences import flatten
from kdnas.study.spec_recipes import recipe_parts
from kdnas.study.spec_strategies import strategy_parts
from kdnas.study.spec_toml import read_values
from kdnas.system.errors import BadOptionError, KdnasError, UsageError, nearest
from kdnas.system.paths import preset
from kdnas.system.text import with_hyphen
from kdnas_tui import words
from kdnas_tui.screens.ask import Answer


@dataclass(frozen=True)
class Entry:
    field: str  # of the spec; "more", "time" and "workers" are the form's own, and "constraints" is a part in one line
    label: str
    says: str
    choices: bool = False
    gap: bool = False  # a blank line before it


ENTRIES = (
    Entry("name", "name", "What the study is called: letters, digits, dots, dashes and underscores."),
    Entry("teacher.model", "teacher", "A teacher that ships (F2), a hub id, or a folder with a model.", True, gap=True),
    Entry("data.source", "data", "A text that ships (F2), a hub id, or a CSV, JSONL, Parquet or text file.", True),
    Entry("data.text_column", "text column", "The column that holds the text."),
    Entry("recipe.name", "recipe", "How a student is built and learns.", True, gap=True),
    Entry("strategy.name", "strategy", "Who proposes the next candidate.", True),
    Entry("like", "warm start", "Who lends its trials: auto (studies of this teacher), none, or a study's name.", True),
    Entry("space.preset", "space", "All sizes that the recipe offers, or KD-NAS's own lists.", True),
    Entry("reward.alpha", "α", "How much speed counts: 0 not at all, −0.06 a little, −0.3 a lot.", gap=True),
    Entry("reward.beta", "β", "The latency that counts as 1, as a share of the teacher's."),
    Entry(
        "constraints",
        "constraints",
        "Any of max_latency_ms=5 min_speedup=3 max_parameters=2000000 max_size_mib=20 max_loss=0.2; or nothing.",
    ),
    Entry("budget.trials", "trials", "How many candidates to evaluate; can be raised later.", gap=True),
    Entry("time", "time", "Hours such as 8, or an end such as 07:30; the only limit where trials are empty."),
    Entry("budget.epochs", "epochs", "Passes over the proxy set that each candidate learns for."),
    Entry("budget.proxy_fraction", "proxy share", "Share of the training data that candidates learn from."),
    Entry("device", "device", "auto, cpu, cuda, cuda:N or mps.", True, gap=True),
    Entry("workers", "workers", "Processes that evaluate candidates at the same time."),
    Entry("seed", "seed", "Every random number comes from it."),
    Entry("more", "more", "Any other setting as field=value, for example data.length=64."),
)
FIELDS = {entry.field: entry for entry in ENTRIES}
TEXTS = {"name", "teacher.model", "data.source", "data.text_column", "like", "device"}  # never read as numbers
OWN = {"more", "time", "workers", PART}


def entry_of(field: str) -> str:
    """The entry under which a fault of a field of the spec stands."""
    return field if field in FIELDS else "time" if field in spec_flags.ENDS else "more"


def time_of(text: str) -> list[tuple[str, Any]]:
    """Hours, such as `8` or `8 h`, or the moment of an end, such as `07:30`, as a field of the spec; or nothing."""
    if not text:
        return []
    hours = number(re.sub(r"\s*(h|hours?)$", "", text))
    return [("budget.until", text) if isinstance(hours, str) else ("budget.hours", hours)]


def id_of(field: str) -> str:
    return "f-" + field.replace(".", "-").replace("_", "-")


def asset_of(name: str) -> Any:
    from kdnas.data.shipped import ASSETS

    return ASSETS.get(name)


def number(text: str) -> int | float | str:
    """A number as people write it (a real minus sign; never a comma), else the text."""
    plain = with_hyphen(text.strip()).replace("_", "")
    for kind in (int, float):
        try:
            return kind(plain)
        except ValueError:
            continue
    return text.strip()


def check_value(field: str, value: Any) -> None:
    """One field by itself. Raises BadOptionError, or UsageError with the hint for what the spec cannot know."""
    if value == "" and field != "data.text_column":
        raise BadOptionError(field, "Nothing is written here.", FIELDS[field].says if field in FIELDS else "")
    from_values(spec_flags.overlay({}, [(field, value)]))
    if field == "teacher.model":
        from kdnas.data import sources

        sources.teacher(str(value))
    elif field == "data.source":
        _check_text(str(value))


def _check_text(value: str) -> None:
    """A shipped text, a file or folder that is there, or what can be a data set of the hub."""
    from kdnas.data.hub import is_id
    from kdnas.data.shipped import names

    path = Path(value).expanduser()
    if value in names("text") or path.exists():
        return
    if value.startswith(("/", "~", "./", "../")) or path.suffix in (".csv", ".jsonl", ".json", ".parquet", ".txt"):
        raise UsageError(f"There is no {path}.", "Give the path of a CSV, JSONL, Parquet or text file.")
    if "/" not in value or not is_id(value):
        raise UsageError(f"{value!r} is neither shipped nor a hub id.", nearest(value, names("text")))


def plain_fault(label: str, field: str, error: KdnasError) -> str:
    """The fault in the form's words rather than the spec's."""
    return str(error).replace(field, label)


def form_values(values: Mapping[str, Any]) -> dict[str, str]:
    """What each field of the form shows for nested values of a spec; what has no field goes into `more`."""
    try:
        spec = from_values(values)
    except BadOptionError:
        spec = from_values({})
    flat = flatten(spec)
    defaults = flatten(from_values({"recipe": {"name": spec.recipe.name}, "strategy": {"name": spec.strategy.name}}))
    shown = {field: shown_value(flat[field]) for field in FIELDS if field not in OWN}
    if spec.budget.open:
        shown["budget.trials"] = ""
    time = shown_value(spec.budget.hours) if spec.budget.until is None else spec.budget.until
    rest, bounds = [], []
    for field, value in flat.items():
        if field in FIELDS or field in spec_flags.ENDS or value == defaults.get(field) or value is None:
            continue
        if field.startswith(f"{PART}."):
            bounds.append(_bound(field.removeprefix(f"{PART}."), value))
            continue
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, one in inner:
            name = f"{field}.{key}" if key else field
            rest.append(f"{name}={spec_flags.toml_text(one)}")
    return {**shown, "time": time, "workers": "1", PART: " ".join(bounds), "more": " ".join(rest)}


def _bound(field: str, value: float) -> str:
    return f"{field}={int(value) if value == int(value) else value}"


def bounds_text(constraints: ConstraintsSpec) -> str:
    """Constraints as the form writes them: `max_latency_ms=5 max_loss=0.2`."""
    return " ".join(_bound(field, value) for field, value in constraints.model_dump().items() if value is not None)


def bounds_of(text: str) -> list[tuple[str, Any]]:
    """`max_latency_ms=5 max_loss=0.2` as fields of the spec and their values. Raises UsageError."""
    return [(f"{PART}.{field}", value) for field, value in map(spec_flags.assigned, split_settings(text))]


def split_settings(text: str) -> list[str]:
    """`a=1 b=["x", "y z"]` at the blanks that stand in no quotes and no brackets. Raises UsageError for open ones."""
    parts, depth, quote, start = [], 0, "", 0
    for i, letter in enumerate(text + " "):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == " " and depth <= 0:
            parts.append(text[start:i])
            start = i + 1
    if quote or depth > 0:
        raise UsageError(f"{text[start:]!r} is not complete.", "Close the quotes." if quote else "Close the brackets.")
    return [part for part in parts if part]


def shown_value(value: Any) -> str:
    return words.signed(value) if isinstance(value, float) else "" if value is None else str(value)


def preset_values(name: str) -> dict[str, Any]:
    """The values of a spec that ships. Raises UsageError for one that does not."""
    values = {"name": name, **read_values(preset(name))}
    from_values(values)
    return values


def first_comment(path: Path) -> str:
    """What a spec says of itself: the first sentence of the comment at its head, over as many lines as it has."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    said = " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))
    first, stop, _ = said.partition(". ")
    return first + stop.strip()


def choices(field: str, studies: Iterable[str] = ()) -> list[Answer]:
    """What ships for a field, each with a line on what it is; `studies` are the names of those in the store."""
    from kdnas.data.shipped import ASSETS, names

    if field == "teacher.model":
        return [Answer(n, n, f"{ASSETS[n].what}. {ASSETS[n].licence}") for n in names("teacher")]
    if field == "data.source":
        return [Answer(n, n, f"{ASSETS[n].what}. {ASSETS[n].licence}") for n in names("text")]
    if field == "recipe.name":
        return [Answer(name, name, _first_line(part)) for name, part in recipe_parts().items()]
    if field == "strategy.name":
        return [Answer(name, name, _first_line(part)) for name, part in strategy_parts().items()]
    if field == "like":
        return [
            Answer(AUTO, AUTO, "every study of the same teacher, recipe and dimensions; those that help are believed"),
            Answer(NOBODY, NOBODY, "begin from nothing"),
            *(Answer(name, name, "a study of this store") for name in sorted({*studies} - {AUTO, NOBODY})),
        ]
    if field == "space.preset":
        return [
            Answer("full", "full", "every size that the recipe offers for this teacher"),
            Answer("kd-nas", "kd-nas", "the fixed lists of KD-NAS, as far as they fit the teacher"),
        ]
    return [
        Answer("auto", "auto", "a GPU where there is one, else the CPU"),
        Answer("cpu", "cpu", "the processor"),
        Answer("cuda", "cuda", "the first NVIDIA GPU; cuda:1 is the second"),
        Answer("mps", "mps", "Apple's GPU"),
    ]


def _first_line(part: Any) -> str:
    return str(part.__doc__ or "").strip().splitlines()[0]


def figures(plan: Mapping[str, Any]) -> list[str]:
    """Candidates, cache and time of a plan in a few words each; what cannot be known beforehand says so."""
    cache, seconds = plan["cache_bytes"], plan["seconds"]
    size = words.plural(int(plan["space_size"]), "candidate")
    if plan.get("ends") is not None:
        size += "" if plan["trials"] is None else f", about {plan['trials']:,} of them"
    held = "cache not known yet" if cache is None else f"{words.mib(cache / 2**20)} of cache"
    if seconds is None:
        return [size, held, "time not known yet"]
    return [size, held, f"about {words.duration(seconds)}, {words.duration(plan['seconds_per_trial'])} each"]


def plan_words(plan: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The answer of `kdnas plan --json` as titled lines; what cannot be known beforehand is left out."""
    space = [f"{words.plural(int(plan['space_size']), 'candidate')} in:"]
    for name, listed in layer_words.grouped(plan["dimensions"]).items():
        space.append(f"  {name}  {', '.join(str(choice) for choice in listed)}")
    parts = [("search space", space)]
    cost = []
    if plan["cache_bytes"] is not None:
        cost.append(f"{words.mib(plan['cache_bytes'] / 2**20)} of the teacher's outputs in the cache.")
    if plan["proxy_tokens"] is not None:
        learnt = "learnt from in each epoch" if plan.get("epochs", 1) else "to fit each candidate to, none is trained"
        cost.append(f"{words.count(plan['proxy_tokens'])} tokens {learnt}.")
    if plan["seconds"] is not None:
        each = words.duration(plan["seconds_per_trial"])
        cost.append(f"About {words.duration(plan['seconds'])} by one worker, {each} a candidate, on {plan['device']}.")
    if plan.get("ends") is not None:
        cost.append(f"It runs {plan['ends']}.")
    if cost:
        parts.append(("what it takes, roughly", cost))
    if plan["notes"]:
        parts.append(("notes", [str(note) for note in plan["notes"]]))
    return parts

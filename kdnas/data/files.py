"""Files of data: found, unpacked, decoded and handed to the reader of their kind; and which files of a folder count.

Every failure is one line with the file's name. Judges no cell.
"""

from __future__ import annotations

import bz2
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdnas.data.delimited import lines_of as lines_of
from kdnas.data.delimited import read_csv, read_tsv
from kdnas.data.json_rows import read_json
from kdnas.data.parquet import read_parquet
from kdnas.data.table import Table
from kdnas.system.errors import UsageError, first_line

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
FILE_KINDS = (*TABLES, ".txt")
PACKED = (".gz", ".bz2")
POINTER = b"version https://git-lfs"  # begins what git leaves in place of a large file that was not fetched
MAGIC = {b"\x1f\x8b": "a gzip file", b"BZh": "a bzip2 file", b"PK\x03\x04": "a zip file", b"PAR1": "a Parquet file"}
MAGIC |= {b"%PDF-": "a PDF", b"ARROW1": "an Arrow file", b"SQLite format 3": "an SQLite database"}
MAGIC |= {b"\xfd7zXZ": "an xz file", b"\x28\xb5\x2f\xfd": "a Zstandard file"}
# Files that people and tools lay beside data.
ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|changes|citation|contributing|authors|requirements)\b.*"
    r"|dataset_infos?\.json|dataset_dict\.json|state\.json|metadata\.json|croissant\.json",
    re.IGNORECASE,
)
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "dev": "validation"}
SPLITS |= {"validation": "validation", "valid": "validation", "val": "validation", "eval": "validation"}


@dataclass(frozen=True)
class Found:
    """The data files of a folder, in their order, and the names of files that were passed over."""

    kind: str
    files: tuple[Path, ...]
    passed: tuple[str, ...] = ()


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, in lower case, compression aside."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in PACKED:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from None


def read_table(path: Path, raw: bytes, wanted: Sequence[str]) -> Table:
    """The table in a file's bytes, with the wanted columns that it has. Raises UsageError for every fault of the file,
    whatever library finds it."""
    kind, name = kind_of(path), str(path)
    if kind not in TABLES:
        raise UsageError(f"kdnas cannot read {path.name}.", f"Give a file of these kinds: {', '.join(FILE_KINDS)}.")
    plain = unpacked(raw, path)
    try:
        if kind == ".parquet":
            return read_parquet(name, plain, wanted)
        text = decoded(plain, path)
        if kind == ".csv":
            return read_csv(name, text, wanted)
        if kind == ".tsv":
            return read_tsv(name, text, wanted)
        return read_json(name, text, wanted, by_lines=kind != ".json")
    except MemoryError:
        raise UsageError(f"{name} is larger than the memory.", "Split it, or give fewer rows.") from None


def read_text(path: Path, raw: bytes) -> str:
    """The text in a file's bytes. Raises UsageError."""
    return decoded(unpacked(raw, path), path)


def unpacked(raw: bytes, path: Path) -> bytes:
    if raw.startswith(POINTER) and len(raw) < 1024:
        raise UsageError(
            f"{path} is a git-lfs pointer, not the file itself.",
            "Fetch the file: run git lfs pull in its folder, or download it again.",
        )
    suffix = path.suffix.lower()
    if suffix not in PACKED:
        return raw
    try:
        return gzip.decompress(raw) if suffix == ".gz" else bz2.decompress(raw)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{path} cannot be unpacked: {first_line(error)}.", "Give a sound file.") from None


def decoded(raw: bytes, path: Path) -> str:
    """UTF-8 without a byte-order mark. Raises UsageError that names what the file is instead."""
    packed = next((what for mark, what in MAGIC.items() if raw.startswith(mark)), None)
    if packed is not None:
        raise UsageError(f"{path} is {packed}, which its name does not say.", "Name it so, or unpack it.")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or raw[:400].count(0) > 0.3 * len(raw[:400]):
        raise UsageError(f"{path} is UTF-16 or binary, not UTF-8.", "Save it as UTF-8.")
    try:
        return raw.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} in line {line}.", "Save it as UTF-8."
        ) from None


# ---------------------------------------------------------------- folders


def data_files(folder: Path, split: str) -> Found:
    """The files of a folder that hold its data: shards of one kind, or texts; of `split` where their names say splits.

    Raises UsageError for a folder without data, and where files of several kinds leave it open which are meant.
    """
    try:
        files = sorted(p for p in _below(folder) if not _hidden(p.relative_to(folder)))
    except OSError as error:
        where = error.filename or folder
        raise UsageError(f"{where} cannot be read: {error.strerror}.", "Check the folder's permissions.") from None
    about = {path for path in files if ABOUT.fullmatch(path.name)}
    data = {path: kind_of(path) for path in files if path not in about and kind_of(path) in FILE_KINDS}
    kinds = sorted(set(data.values()))
    if not kinds:
        there = ", ".join(sorted({path.name for path in files})[:5])
        raise UsageError(
            f"The folder {folder} holds no .txt file and no table" + (f" (it holds {there})." if there else "."),
            f"Give a folder of .txt files or of shards ({', '.join(TABLES)}), or one file.",
        )
    if len(kinds) > 1:
        some = ", ".join(next(str(p.relative_to(folder)) for p in data if data[p] == kind) for kind in kinds)
        raise UsageError(
            f"The folder {folder} holds data of several kinds: {some}.",
            "Give one of the files, or a folder of one kind.",
        )
    chosen = list(data)
    if kinds[0] != ".txt":
        chosen = _of_split(folder, chosen, split)
    passed = [str(path.relative_to(folder)) for path in files if path not in set(chosen)]
    return Found(kinds[0], tuple(chosen), tuple(passed))


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder, links followed, each folder once. Raises OSError for a folder that cannot be listed,
    and UsageError for a data file that is a link to nothing."""

    def refuse(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = Path(place) / name
            if path.is_file():
                yield path
            elif path.is_symlink() and kind_of(path) in FILE_KINDS and not _hidden(path.relative_to(folder)):
                raise UsageError(f"{path} is a link to a file that is not there.", "Fetch it, or remove the link.")


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The shards of one split, where names or folders say which split a shard is of."""
    said = {path: _split_of(path.relative_to(folder)) for path in files}
    names = sorted({name for name in said.values() if name is not None})
    if not names or (len(names) == 1 and None not in said.values() and split in ("train", names[0])):
        return files
    wanted = SPLITS.get(split.lower(), split.lower())
    chosen = [path for path in files if said[path] == wanted]
    if not chosen:
        raise UsageError(
            f"The folder {folder} has shards of {', '.join(names)}, and none of {split!r}.",
            f"Give data.split, one of {', '.join(names)}.",
        )
    return chosen


def _split_of(path: Path) -> str | None:
    for part in reversed(path.parts):
        for word in re.split(r"[-_.\s]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return None

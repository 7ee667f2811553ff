"""Commands that copy studies out of a store and back: backup, restore."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from kdnas.cli import frame
from kdnas.system.errors import UsageError


@click.command()
@click.argument("study", type=frame.StudyName(), required=False)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--all", "everything", is_flag=True, help="Every study of the store; then give only FILE.")
@frame.storage
def backup(study: str | None, file: Path | None, everything: bool, storage: str | None) -> None:
    """Copy STUDY, or --all, into FILE, while it runs or not. FILE is a store: look with --storage, or restore it."""
    if everything and file is None and study is not None:
        file, study = Path(study), None
    if file is None or everything == (study is not None):
        raise UsageError("A backup is of a study or of all.", "kdnas backup STUDY FILE, or kdnas backup --all FILE")
    if file.exists() or file.is_symlink():
        raise UsageError(f"{file} is there already.", "Name a file that is not.")
    if not file.parent.is_dir():
        raise UsageError(f"The folder {file.parent} does not exist.", "Make it first, or name another.")
    from kdnas.store.copies import copy
    from kdnas.store.database import open_reader, open_store
    from kdnas.system.files import explained

    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with open_reader(frame.place(storage)) as source, explained(file), open_store(partial, create=True) as target:
            copied = copy(source, target, None if study is None else [study])
            target.settle()
        with explained(file):
            partial.rename(file)
    finally:
        for left in (partial, *(partial.with_name(partial.name + end) for end in ("-wal", "-shm"))):
            left.unlink(missing_ok=True)
    frame.say(f"Copied {', '.join(copied) or 'no study'} to {file}. Bring it back with: kdnas restore {file}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("names", metavar="[STUDY]...", nargs=-1)
@frame.storage
def restore(file: Path, names: tuple[str, ...], storage: str | None) -> None:
    """Bring the studies of a backup FILE, or those named, into the store; what is there stays as it is."""
    from kdnas.store.copies import copy
    from kdnas.store.database import open_reader, open_store

    with open_reader(file) as source, open_store(frame.place(storage), create=True) as target:
        copied = copy(source, target, names or None)
    frame.say(
        f"Restored {', '.join(copied) or 'no study'}. Go on with: kdnas resume {copied[0] if copied else 'STUDY'}"
    )

"""Which kind of file system a folder lies on, and which of them SQLite cannot use."""

from __future__ import annotations

from pathlib import Path

import psutil

from kdnas.system.errors import UsageError

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "afpfs", "webdav", "lustre", "gpfs", "beegfs", "ceph"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse"}
)


def refuse_network_folder(folder: Path) -> None:
    kind = file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise UsageError(
            f"The folder {folder} lies on a network file system ({kind}), on which SQLite loses data.",
            "Put the store on a local disk, or use PostgreSQL: --storage postgresql://USER@HOST/DATABASE.",
        )


def file_system(folder: Path) -> str:
    """The kind of file system that a folder (or its nearest ancestor that exists) lies on, "" where unknown."""
    place = folder.absolute()
    best, kind = "", ""
    try:
        mounts = psutil.disk_partitions(all=True)
    except OSError:
        return ""
    for mount in mounts:
        inside = place == Path(mount.mountpoint) or Path(mount.mountpoint) in place.parents
        if inside and len(mount.mountpoint) >= len(best):
            best, kind = mount.mountpoint, mount.fstype.lower()
    return kind

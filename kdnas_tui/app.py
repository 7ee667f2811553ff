"""The app around the screens: the desk that they ask for storage, feed, clock and writing, and the signals' clean end.

Never runs a search: closing it, or losing the terminal, stops nothing.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import events, work
from textual.app import App, SystemCommand
from textual.message import Message
from textual.notifications import Notification, Notify, SeverityLevel
from textual.screen import Screen

from kdnas.system.errors import KdnasError, UsageError
from kdnas_tui import keys, memory, mishaps, notices, settings, theme
from kdnas_tui.custom import Custom
from kdnas_tui.feed import Feed
from kdnas_tui.palette import Actions
from kdnas_tui.screens.frame import BREATH_S, Frame

if TYPE_CHECKING:
    from kdnas.store.database import Store
    from kdnas.study.campaign_rows import CampaignRow

STYLED_AT_ONCE = 12  # widgets, some 2 ms each
LEAST_S = 0.25  # that a notification stays
FAULT_S = 8.0  # for which a fault is told where nobody goes elsewhere
STDIN = 0  # where keys come from: a terminal, or for a browser the pipe of its server
LAST_S = 10.0  # after a signal, until the screens are ended without ceremony
IDLE_SECONDS = 0.3  # without a key, after which something slow disturbs nobody


class Told(Notification):
    """A notification whose time to go is never nothing. Textual begins a timer of it when it comes on the screen, and a
    timer of less than nothing never ends: one that had just expired would stop everything, and keep a core busy."""

    @property
    def time_left(self) -> float:
        return max(super().time_left, LEAST_S)

    @property
    def has_expired(self) -> bool:
        return super().time_left <= 0


class KdnasApp(App[str]):
    """The screens, and what they ask for (`Desk`). `clock` gives UTC seconds; tests give their own."""

    TITLE = "kdnas"
    CSS_PATH = "app.tcss"
    COMMANDS = {Actions}
    BINDINGS = keys.app_bindings()
    ENABLE_COMMAND_PALETTE = True
    ANIMATION_LEVEL = "none"

    class NewsArrived(Message):
        """The feed's basket is no longer empty."""

    def __init__(
        self,
        storage: str,
        *,
        study: str | None = None,
        campaign: CampaignRow | None = None,
        preset: str | None = None,
        ascii: bool = False,
        clock: Callable[[], float] = time.time,
        period: float = 1.0,
        farewell: str = "",
        readonly: str = "",
        custom: Custom | None = None,
    ) -> None:
        super().__init__()
        self.animation_level = "none"  # animations cost a slow line too much
        self.storage = storage
        self.first_study, self.first_campaign, self.first_preset = study, campaign, preset
        self.clock = clock
        self.readonly = readonly
        self.farewell = farewell
        self.ascii = ascii
        if self.no_color:
            self._filters.insert(0, theme.Styled())
        self._filters.append(theme.Harmless())
        if ascii:
            self._filters.append(theme.Ascii())
        self.custom = custom or Custom()
        keys.use(self.custom.keys)
        self._endings = notices.Endings()
        for one in (*theme.THEMES, *self.custom.themes):
            self.register_theme(one)
        chosen = settings.read().theme
        self.theme = chosen if chosen in self.available_themes else theme.DARK.name
        self.feed = Feed(storage, self._news_waits, period)
        self._writer: Store | None = None
        self._touched = time.monotonic()  # when something was last typed or clicked
        self._on_terminal = False  # until it is looked at
        self.alive: dict[str, int] = {}  # study → workers alive when last looked at

    # ------------------------------------------------------------------ life

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            try:
                loop.add_signal_handler(number, partial(self._signalled, number))
            except (ValueError, RuntimeError, NotImplementedError):
                break  # not the main thread, as in tests
        self._on_terminal = os.isatty(STDIN)
        if self._on_terminal and not self.is_headless:
            threading.Thread(target=end_without_terminal, daemon=True).start()
        if self.custom.keys:
            self.set_keymap(keys.keymap())
        if self.first_study is not None:
            self.open_study(self.first_study)
        else:
            self.push_screen(self._studies())
            if self.first_campaign is not None:
                from kdnas_tui.screens.campaign import CampaignScreen

                self.push_screen(CampaignScreen(self, self.first_campaign))
            if self.first_preset is not None:
                self._first_preset(self.first_preset)
        self.call_after_refresh(self.feed.start)
        self.set_interval(1.0, self._each_second)

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.InputEvent):
            self._touched = time.monotonic()
        await super().on_event(event)

    def _each_second(self) -> None:
        # Only the first process of a terminal hears of it when it closes; make and some shells do not pass it on.
        if not self.is_headless and hung_up(self._on_terminal):
            self._signalled(signal.SIGHUP)
        if time.monotonic() - self._touched > IDLE_SECONDS:
            memory.tidy()

    def _studies(self) -> Screen[Any]:
        from kdnas_tui.screens.studies import StudiesScreen

        return StudiesScreen(self)

    def _first_preset(self, name: str) -> None:
        from kdnas_tui.screens.new_study import NewStudyScreen
        from kdnas_tui.screens.spec_fields import preset_values

        values = preset_values(name)
        study = str(values.get("name", name))
        if study_exists(self.storage, study):
            self.open_study(study)
        else:
            self.push_screen(NewStudyScreen(self, values, preset=name))

    def _signalled(self, number: int) -> None:
        self.farewell = ""
        if not self.is_headless:
            # A terminal that is gone can hold up the way out for ever; what the screens write is never half-written.
            last = threading.Timer(LAST_S, os._exit, (128 + number,))
            last.daemon = True
            last.start()
        self.exit(return_code=128 + number)

    def on_unmount(self) -> None:
        self.feed.stop()

    def action_leave(self) -> None:
        alive = {name: count for name, count in self.alive.items() if count}
        if alive:
            name = next(iter(alive))
            names = ", ".join(alive)
            self.farewell = (
                f"The search goes on: {names}. See it again with `kdnas-tui {name}`, stop it with `kdnas stop {name}`."
            )
        self.exit()

    async def action_quit(self) -> None:
        """Textual's own way out, which some of its parts take."""
        self.action_leave()

    async def action_help(self) -> None:
        """Explain the shown screen or dialog, where it has an explanation."""
        await self.screen.run_action("help")

    # ------------------------------------------------------------------ the store

    def _news_waits(self) -> None:
        self.post_message(self.NewsArrived())

    def on_kdnas_app_news_arrived(self) -> None:
        news = self.feed.take()
        if news is None:
            return
        if news.study is not None:
            self.alive[news.study.name] = news.study.workers
        for row in news.studies or ():
            self.alive[row.name] = row.workers
        shown = [news.study] if news.study is not None else news.studies or ()
        for row in self._endings.among(shown):
            self._send(notices.sequence(self.custom.notify, row))
        for screen in self.screen_stack:
            if isinstance(screen, Frame):
                screen.hear(news)

    def _send(self, sequence: str) -> None:
        """To the terminal itself, past the screens; Textual's own bell goes the same way."""
        if sequence and not self.is_headless and self._driver is not None:
            self._driver.write(sequence)

    def open_study(self, name: str) -> None:
        """Show a study, over the list of them."""
        from kdnas_tui.screens.study import StudyScreen

        self.forget_faults()
        while len(self.screen_stack) > 2:
            self.pop_screen()
        if len(self.screen_stack) == 1:
            self.push_screen(self._studies())
        self.push_screen(StudyScreen(name, self))

    @work(thread=True, group="change", exit_on_error=False)
    def change(self, what: Callable[[Store], Any], done: str = "", then: Callable[[], Any] | None = None) -> None:
        """Write to the store in a thread; a fault becomes a notice with its hint."""
        from kdnas.store.database import open_store

        if self.readonly:
            self.call_from_thread(self.fault, UsageError(self.readonly))
            return
        try:
            if self._writer is None:
                self._writer = open_store(self.storage)
            what(self._writer)
        except Exception as fault:  # nobody else would hear of it
            self.call_from_thread(self.fault, fault if isinstance(fault, KdnasError) else mishaps.recorded(fault))
            return
        self.feed.look_now()
        self.call_from_thread(self._changed, done, then)

    def _changed(self, done: str, then: Callable[[], Any] | None) -> None:
        if done:
            self.notify(done, timeout=4, markup=False)
        if then is not None:
            then()

    @work(thread=True, group="command", exit_on_error=False)
    def command(self, what: Callable[[], Any], done: str = "", then: Callable[[], Any] | None = None) -> None:
        """Something slow that is not on the store (a process, a file), in a thread."""
        try:
            what()
        except OSError as error:
            file = error.filename or "A file"
            self.call_from_thread(
                self.fault, UsageError(f"{file} cannot be used: {error.strerror}.", "Name another place.")
            )
            return
        except Exception as fault:  # nobody else would hear of it
            self.call_from_thread(self.fault, fault if isinstance(fault, KdnasError) else mishaps.recorded(fault))
            return
        self.feed.look_now()
        self.call_from_thread(self._changed, done, then)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = True,
    ) -> None:
        seconds = self.NOTIFICATION_TIMEOUT if timeout is None else timeout
        self.post_message(Notify(Told(message, title, severity, seconds, markup=markup)))

    def fault(self, error: KdnasError) -> None:
        """What went wrong and its hint, until it is read."""
        self.notify(f"{error.problem}\n{error.hint}".strip(), severity="error", timeout=FAULT_S, markup=False)

    def forget_faults(self) -> None:
        """Take away the faults that are still told: who goes elsewhere has left them behind."""
        for notice in [notice for notice in self._notifications if notice.severity == "error"]:
            self._unnotify(notice)

    # ------------------------------------------------------------------ theme, copy

    def action_next_theme(self) -> None:
        names = [one.name for one in (*theme.THEMES, *self.custom.themes)]
        if self.theme in names:
            self.theme = names[(names.index(self.theme) + 1) % len(names)]
        else:
            self.theme = theme.LIGHT.name if self.current_theme.dark else theme.DARK.name
        settings.keep(theme=self.theme)

    async def refresh_css(self, animate: bool = True) -> None:  # type: ignore[override]  # is only ever called back
        """Apply another theme as Textual does, but one part at a time, so that keys are heard in between."""
        self.stylesheet.set_variables(self.get_css_variables())
        self.stylesheet.reparse()
        with self.batch_update():  # painted once
            for screen in reversed(self.screen_stack):
                widgets = list(screen.walk_children(with_self=True))
                for at in range(0, len(widgets), STYLED_AT_ONCE):
                    await asyncio.sleep(BREATH_S)
                    self.stylesheet.update_nodes(widgets[at : at + STYLED_AT_ONCE], animate=animate)
                screen._css_update_count = self._css_update_count  # Textual's own count of what it has styled
            self.stylesheet.apply(self, animate=animate)
            if self.screen_stack:  # none yet where the theme is the one to begin with
                self.screen.refresh(layout=True)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        yield SystemCommand("Quit", "Close the screens; searches that run go on", self.action_leave)

    def copy(self, text: str, name: str) -> None:
        """To the terminal's clipboard (OSC 52), and always to a file too, since not every terminal takes it."""
        self.copy_to_clipboard(text)

        def write() -> None:
            from kdnas.system.files import write_atomically
            from kdnas.system.paths import private_folder, state_folder
            from kdnas_tui.clipboard import outcome

            folder = private_folder(state_folder() / "copies")
            write_atomically(folder / name, text)
            self.call_from_thread(self.notify, outcome(folder / name), timeout=6, markup=False)

        self.command(write)


def end_without_terminal() -> None:
    """Ends the process once its terminal has been gone for LAST_S: what writes to it may have died with it, and then
    nothing of the screens runs any more that could end them."""
    gone_s = 0.0
    while gone_s < LAST_S:
        time.sleep(1.0)
        gone_s = gone_s + 1.0 if hung_up(True) else 0.0
    os._exit(128 + signal.SIGHUP)


def hung_up(terminal: bool) -> bool:
    """Whether nothing can be typed any more: the terminal was closed, or the other end of the pipe."""
    if terminal:
        return not os.isatty(STDIN)
    poll = select.poll()
    poll.register(STDIN, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def study_exists(storage: str, name: str) -> bool:
    """Whether the store is there and holds the study; the screen of a store that cannot be read says why."""
    if storage.startswith("sqlite:///") and not Path(storage.removeprefix("sqlite:///")).exists():
        return False
    from kdnas.store import queries
    from kdnas.store.database import open_reader

    try:
        with open_reader(storage) as store:
            queries.study_row(store, name)
    except KdnasError:
        return False
    return True

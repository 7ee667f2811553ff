"""A callback after a while that always comes.

Textual's own `set_timer` leaves its callback out where the event loop was kept busy for longer than the delay, between
two lines of it: what waits for the callback then waits for ever. A busy machine does that to delays of milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from textual.message_pump import MessagePump
from textual.timer import Timer


def later(pump: MessagePump, delay: float, callback: Callable[[], object]) -> Timer:
    """The timer that calls back once, after so many seconds, or at once where they are not above 0."""
    timer = Timer(pump, max(delay, 0.0), callback=partial(pump.call_next, callback), repeat=0, skip=False)
    timer._start()
    pump._timers.add(timer)
    return timer

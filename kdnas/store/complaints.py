"""What databases complain of, as one line with the hint. Knows no connection."""

from __future__ import annotations

from sqlalchemy.exc import PendingRollbackError

from kdnas.system.errors import UsageError, first_line


class StoreError(UsageError):
    """The database cannot do its part; nothing that runs on it can go on. `passes` where it may do so in a moment."""

    def __init__(self, problem: str, hint: str = "", *, passes: bool = False) -> None:
        super().__init__(problem, hint)
        self.passes = passes


def explain(error: BaseException, place: str) -> StoreError:
    """What a database said, as one line with the hint. `place` is the store's address without a password."""
    said: list[str] = []
    lost = False
    first = error
    seen: BaseException | None = error
    while seen is not None:
        first = getattr(seen, "orig", None) or seen  # SQLAlchemy's own text holds the statement and its values
        said.append(str(first))
        lost |= getattr(seen, "connection_invalidated", False) or isinstance(seen, PendingRollbackError)
        seen = seen.__cause__
    text = " ".join(said)
    for words, problem, hint in _COMPLAINTS:
        if any(word in text for word in words):
            return StoreError(problem.format(place=place), hint.format(place=place), passes=problem in _PASSING)
    if lost:  # whatever the driver called it
        return StoreError(_SILENT.format(place=place), _REACH, passes=True)
    reason = first_line(first)  # Optuna's own words are the same for all that can go wrong
    return StoreError(f"The store {place} cannot be used: {reason}.", "See that it can be reached and is whole.")


_LOCKED = "The store {place} is locked by another program."
_SILENT = "The store {place} does not answer."
_REACH = "See that the server runs and that host and port are right."
_FULL_HOUSE = "The server of the store {place} has no connection left."
_AWAY = (
    *("Connection refused", "could not connect", "failed to resolve", "connection failed", "connection timeout"),
    *("closed the connection", "terminating connection", "connection is closed", "connection is lost"),
    *("is starting up", "is shutting down", "in recovery mode", "could not receive data", "consuming input failed"),
    *("could not send data", "sending query", "sending prepared query"),
    *("deadlock detected", "could not serialize"),
)
_PASSING = frozenset({_LOCKED, _SILENT, _FULL_HOUSE})

_COMPLAINTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("database is locked", "database table is locked"),
        _LOCKED,
        "Close what keeps it open for writing, then try again.",
    ),
    (
        ("file is not a database", "file is encrypted"),
        "The store {place} is not a database.",
        "Give the path of a kdnas store, or of a file that does not exist yet.",
    ),
    (
        ("malformed", "disk image"),
        "The store {place} is damaged.",
        "Nothing was changed. Copy the file, then try `sqlite3 FILE .recover` on the copy.",
    ),
    (
        ("disk is full", "No space left", "disk I/O error", "too large", "Should not reach", "could not extend"),
        "The disk under the store {place} is full or failing.",
        "Make room there; what was finished is kept.",
    ),
    (
        ("unable to open database file",),
        "The store {place} cannot be opened.",
        "See that its folder exists and that you may write there.",
    ),
    (
        ("readonly database", "read-only transaction"),
        "The store {place} may only be read by you.",
        "Ask its owner for the right to write, or give another --storage.",
    ),
    (
        ("no longer compatible with the table schema",),
        "The store {place} was written by a newer Optuna.",
        "Update optuna where you run kdnas.",
    ),
    (
        ("optuna storage upgrade",),
        "The store {place} was written by an older Optuna.",
        "Run `optuna storage upgrade --storage {place}` once.",
    ),
    (
        ("password authentication failed", "no password supplied"),
        "The store {place} refuses the user or the password.",
        "Fix them in the address, or in ~/.pgpass.",
    ),
    (
        ("too many clients", "connection slots are reserved", "too many connections"),
        _FULL_HOUSE,
        "End some of the processes that use it, or raise its max_connections.",
    ),
    (
        _AWAY,
        _SILENT,
        _REACH,
    ),
)

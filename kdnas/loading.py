"""What goes wrong while a model's files are read, said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdnas.errors import UsageError, first_line


@contextmanager
def loading(what: str, mend: str) -> Iterator[None]:
    """Raise UsageError for files that transformers cannot make a model of: absent, of another kind, or damaged.

    `what` begins the sentence ("The weights of 'bert'"). Faults of kdnas pass through.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"{what} cannot be loaded: {first_line(error)}.", mend) from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # by name: this module stays light
            raise
        raise UsageError(f"{what} cannot be loaded, the file is damaged: {first_line(error)}.", mend) from None

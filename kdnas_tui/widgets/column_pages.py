"""Which columns of the trials are wanted, and which of them stand on the page that is shown. Draws nothing."""

from __future__ import annotations

from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.column_fit import pages
from kdnas_tui.widgets.trial_cells import Column, columns_of

LEFT = 2  # cells for cursor and mark before the first column
KEPT = 2  # columns that stand on every page: number and reward


class ColumnPages:
    """`shown` are the columns of the page, from the left, and `gaps` the blanks before each of them."""

    def __init__(self) -> None:
        self.hidden: frozenset[str] = frozenset()  # keys of usual columns that are not wanted …
        self.added: frozenset[str] = frozenset()  # … and of others that are
        self.page = 0
        self.pages: list[tuple[Column, ...]] = [()]
        self.shown: tuple[Column, ...] = ()
        self.gaps: tuple[int, ...] = ()

    def wanted(self, board: Board | None) -> list[Column]:
        """All columns that are wanted, on whatever page."""
        return [c for c in columns_of(board) if (c.key not in self.hidden if c.usual else c.key in self.added)]

    def fit(self, board: Board | None, width: int) -> None:
        """Lay the wanted columns out for so many cells."""
        columns = self.wanted(board)
        widths = [column.width for column in columns]
        found = pages(widths, [column.leaves for column in columns], width - LEFT - 1, gap=1, kept=KEPT)
        self.pages = [tuple(columns[place] for place in page) for page in found]
        self.page = max(0, min(self.page, len(self.pages) - 1))
        self.shown = self.pages[self.page]
        # Two blanks before a column where there is room for them, else one; the left ones first.
        spare = width - LEFT - 1 - sum(column.width + 1 for column in self.shown) + 1
        self.gaps = tuple(LEFT if place == 0 else 2 if place <= spare else 1 for place in range(len(self.shown)))

    def page_of(self, key: str) -> int:
        """The page to turn to for a column: the present one where it stands there or nowhere."""
        if key in {column.key for column in self.shown}:
            return self.page
        return next((i for i, page in enumerate(self.pages) if key in {c.key for c in page}), self.page)

    def at(self, x: int) -> Column | None:
        """The column of the page that is shown at a cell of its lines."""
        left = 0
        for column, blank in zip(self.shown, self.gaps, strict=True):
            if left <= x < left + blank + column.width:
                return column
            left += blank + column.width
        return None

    @property
    def elsewhere(self) -> int:
        """How many columns stand on other pages only."""
        return len({column.key for page in self.pages for column in page}) - len(self.shown)

    @property
    def arrows(self) -> str:
        """The signs at the end of the titles: to which sides there are further pages."""
        return ("‹" if self.page else "") + ("›" if self.page + 1 < len(self.pages) else "")

"""What all commands share: lazy loading, errors as one line, options, and where data and narration go."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from kdnas import __version__
from kdnas.system.errors import KdnasError, UsageError, nearest
from kdnas.system.text import clean, escaped, with_hyphen
from kdnas.system.time_left import duration

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
SHOW_CURSOR = b"\r\x1b[2K\x1b[?25h"  # on an empty line
F = TypeVar("F", bound=Callable[..., Any])


class Interrupted(KdnasError):  # noqa: N818 - what people asked for is no error
    """An interrupt of which there is something to say."""

    exit_code = INTERRUPTED


class Named(click.Group):
    """A group that says which command is nearest to a wrong one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise UsageError(f"There is no command '{name}'.", nearest(name, self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


class Lazy(Named):
    """The root of the command line: loads a command's file when it is called, not to list it."""

    def __init__(self, name: str, table: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            name,
            help="Find the smallest, fastest student language model that still keeps what its teacher knows.",
            no_args_is_help=True,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        )
        self.table = table
        click.version_option(__version__, message="kdnas %(version)s")(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        module, attribute = self.table[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])


def run(root: click.Group, arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what a user can cause ends as one line on standard error."""
    with _terminal_left_as_it_was():
        return _run(root, arguments)


@contextlib.contextmanager
def _terminal_left_as_it_was() -> Iterator[None]:
    """A signal that ends the process gives the cursor back first; a command may still do better with it."""

    def end(number: int, _frame: FrameType | None) -> None:
        if sys.stderr.isatty():
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), SHOW_CURSOR)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in ending:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def asked() -> list[str]:
    """The words after `kdnas` of the command that runs now."""
    return list(_asked)


_asked: list[str] = []
_places: list[str] = []  # stores that it has asked for


def _run(root: click.Group, arguments: Sequence[str] | None) -> int:
    _asked[:] = sys.argv[1:] if arguments is None else arguments
    _places.clear()
    try:
        # A tuple of arguments is what click wants; standalone mode would print usage blocks of its own.
        code = root.main(args=None if arguments is None else list(arguments), prog_name="kdnas", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KdnasError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.NoSuchOption as error:
        known = [o for p in (error.ctx.command.params if error.ctx else []) for o in p.opts if o.startswith("--")]
        command = error.ctx.command_path if error.ctx else "kdnas"
        return _fail(f"{command} has no option {error.option_name}. {nearest(error.option_name, known)}", 2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "kdnas"
        return _fail(f"{error.format_message()} See {command} --help.", 2)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        return _fail("Interrupted.", INTERRUPTED)
    except (TypeError, ValueError, LookupError, ArithmeticError):
        damage = _damage()
        if damage is None:
            raise
        return _fail(str(damage), damage.exit_code)
    except BrokenPipeError:
        # The reader of the data (head, less) has enough; a second complaint at exit helps nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _fail(f"The disk is full{_of(error)}. Free some space and run the command again.", 2)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _fail(f"{error.strerror}{_of(error)}. Give yourself the right, or name another place.", 2)
        raise


def _of(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _fail(line: str, code: int) -> int:
    # One line stays one line, whatever a library put into it.
    click.echo("kdnas: " + clean(" ".join(line.split())), err=True)
    return code


# ------------------------------------------------------------------------------------------- options and data

storage = click.option(
    "--storage",
    metavar="URL",
    help="Database of the studies: a file or an SQLAlchemy URL.  [default: $KDNAS_STORAGE, else studies/kdnas.db where "
    "there is a studies folder, else one in your data folder]",
)


class StudyName(click.ParamType):
    """The name of a study; the shell completes those of the store."""

    name = "study"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from kdnas.store import queries
        from kdnas.store.database import open_reader

        try:
            with open_reader(place(ctx.params.get("storage"))) as store:
                names = [row.name for row in queries.study_rows(store)]
        except KdnasError:  # a key that completes nothing is no place for an error
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class OneOf(click.ParamType):
    """One of some names, for help and the shell. What is no such name is refused by the spec, with the nearest one."""

    name = "name"

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self.names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join(self.names())

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]


class Number(click.ParamType):
    """A number, with a real minus sign too, as the screens take it."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        plain: Any = with_hyphen(value) if isinstance(value, str) else value
        return click.FLOAT.convert(plain, param, ctx)


study = click.argument("study", type=StudyName())
as_json = click.option("--json", "as_json", is_flag=True, help="Print the data as JSON.")


def place(given: str | None) -> str:
    """The storage that was asked for, else the default one."""
    from kdnas.system.paths import default_storage

    if given is None or "://" not in given:
        found = given or default_storage()
    else:
        from kdnas.store import addresses

        found = addresses.whole(given)
    _places.append(found)
    return found


def _damage() -> KdnasError | None:
    """What is wrong with a row of a store that the command asked, which it may have fallen over."""
    from kdnas.store.check import damage_of

    return next((found for where in dict.fromkeys(_places) if (found := damage_of(where)) is not None), None)


def shown(storage: str) -> str:
    """A storage's address as it may stand on a screen: without its password."""
    from kdnas.store import addresses

    url = addresses.store_url(storage)
    return storage if url.get_backend_name() == "sqlite" else addresses.shown(url)


def print_json(value: Any) -> None:
    """Data for programs: numbers that JSON does not have become null."""
    click.echo(escaped(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def line(text: str = "") -> None:
    """One line for people on standard output."""
    click.echo(clean(text))


def data(text: str) -> None:
    """What programs read, on standard output: as it is into a file or a pipe, made fit for a terminal on one."""
    click.echo("\n".join(map(clean, re.split("\r?\n", text))) if on_terminal() else text, nl=False)


def on_terminal() -> bool:
    """Whether standard output is one."""
    return sys.stdout.isatty()


def say(line: str) -> None:
    """One line of narration on standard error."""
    click.echo(clean(line), err=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A plain table on standard output, a line for each row. Only the last column gives way."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    columns = [clean(column) for column in columns]
    cells = [["–" if value is None else clean(str(value)) for value in row] for row in rows]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        numeric = all(isinstance(r[position], int | float) or r[position] in (None, "–") for r in rows)
        width = max(cell_len(text) for text in (column, *(row[position] for row in cells)))
        grid.add_column(
            Text(column),
            justify="right" if numeric and rows else "left",
            no_wrap=True,
            min_width=None if position == len(columns) - 1 else width,
        )
    for row in cells:
        grid.add_row(*(Text(text) for text in row))
    console = out()
    with console.capture() as drawn:
        console.print(grid)
    click.echo(re.sub(r" +$", "", drawn.get(), flags=re.MULTILINE), nl=False)


def out() -> Console:
    """Standard output for data; piped, its lines are as long as they need to be."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 240, markup=False, highlight=False, emoji=False)


def narration() -> Console:
    """Standard error for progress."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def ago(moment: float | None) -> str:
    """How long ago a moment (UTC seconds) was."""
    return "–" if moment is None else f"{duration(time.time() - moment)} ago"

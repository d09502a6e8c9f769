"""A click group that loads subcommands on first use and reports user errors in one line."""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import IO, Any

import click
from click.shell_completion import CompletionItem

import spamlit

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


class InputError(click.ClickException):
    """What the user asked for cannot be: shown as `error: …` on standard error, without a traceback."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class SurroundingsError(InputError):
    """A file, a disk, a network or other software did not do its part; shown in the same way."""

    exit_code = 1


# By class name, so that no library is imported to recognise its errors.
USER_ERRORS = {
    "ValueError": InputError,
    "FloatingPointError": InputError,  # a learning rate too high, or weights that are no numbers
    "MisconfigurationException": InputError,  # lightning
    "OmegaConfBaseException": InputError,
    "HydraException": InputError,
    "MissingConfigException": InputError,  # Hydra's, and an OSError
    "AssetError": SurroundingsError,
    "ExportError": SurroundingsError,
    "OSError": SurroundingsError,
}


class LazyGroup(click.Group):
    """A group whose subcommands are known by name and help line, and imported when invoked.

    Args:
        subcommands: name → (module with a `command`, help line).
        **attributes: what `click.Group` takes.
    """

    def __init__(self, *, subcommands: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.subcommands = subcommands
        click.version_option(spamlit.__version__, prog_name=self.name)(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.subcommands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.subcommands:
            return None
        module, _ = self.subcommands[cmd_name]
        command = import_module(module).command
        assert isinstance(command, click.Command), f"{module}.command is not a click.Command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help lines without importing the subcommands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.subcommands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete subcommand names without importing them."""
        names = [
            CompletionItem(name, help=text)
            for name, (_, text) in self.subcommands.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the subcommand; what the user can mend becomes one line, all else keeps its traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own, which it reports itself; a closed pipe ends the command quietly
        except Exception as error:
            kind = user_error(error)
            if kind is None or os.environ.get("SPAMLIT_DEBUG", "0") not in ("", "0"):
                raise
            raise kind(one_line(error)) from error


def user_error(error: BaseException) -> type[InputError] | None:
    """The form in which an error is shown to the user; None for a defect of the program.

    >>> user_error(FileNotFoundError("no such run")).exit_code
    1
    >>> user_error(KeyError("a defect")) is None
    True
    """
    names = [cls.__name__ for cls in type(root(error)).__mro__]
    return next((USER_ERRORS[name] for name in names if name in USER_ERRORS), None)


def root(error: BaseException) -> BaseException:
    """What went wrong behind Hydra's "Error in call to target …" and logging's "Unable to configure handler …"."""
    wraps = type(error).__name__ == "InstantiationException" or str(error).startswith("Unable to configure ")
    return root(error.__cause__) if wraps and error.__cause__ is not None else error


def one_line(error: BaseException) -> str:
    r"""What an error says, on one line.

    >>> one_line(ValueError("model.trainable='last_blok'\n  choose one of: head, last_block"))
    "model.trainable='last_blok' choose one of: head, last_block"
    >>> one_line(FileNotFoundError(2, "No such file or directory", "sms.csv"))
    'sms.csv: No such file or directory'
    """
    error = root(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__

"""The command group: subcommands load on use, user errors are one line with an exit code."""

import sys
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

from spamlit.cli import COMMANDS, main
from spamlit.cli.group import LazyGroup


class AssetError(RuntimeError):
    """Named as the one in spamlit.assets: errors are recognised by name."""


class MisconfigurationException(Exception):  # noqa: N818
    """Named as Lightning's."""


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, *args: str) -> Result:
    """Invoke `demo go`, whose command prints a line, or raises `error`."""

    @click.command()
    def command() -> None:
        if error is not None:
            raise error
        click.echo("done")

    module = ModuleType("demo_go")
    vars(module)["command"] = command
    monkeypatch.setitem(sys.modules, "demo_go", module)
    group = LazyGroup(name="demo", subcommands={"go": ("demo_go", "Go."), "broken": ("no.such.module", "Never.")})
    return CliRunner().invoke(group, args or ("go",))


@pytest.mark.parametrize(
    ("error", "line", "exit_code"),
    [
        (ValueError("trainable='last_blok'\n  choose from head"), "error: trainable='last_blok' choose from head", 2),
        (MisconfigurationException("no GPU here"), "error: no GPU here", 2),
        (AssetError("gpt2: no source answered"), "error: gpt2: no source answered", 1),
        (FileNotFoundError(2, "No such file", "sms.csv"), "error: sms.csv: No such file", 1),
        (OSError(), "error: OSError", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (click.UsageError("which one?"), "Error: which one?", 2),
    ],
)
def test_user_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, line: str, exit_code: int
) -> None:
    monkeypatch.delenv("SPAMLIT_DEBUG", raising=False)
    result = run(monkeypatch, error)
    assert result.exit_code == exit_code
    assert result.stderr.splitlines()[-1] == line
    assert "Traceback" not in result.stderr


def test_defects_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    defect = KeyError("logits")
    assert run(monkeypatch, defect).exception is defect


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPAMLIT_DEBUG", "1")
    error = ValueError("why?")
    assert run(monkeypatch, error).exception is error


def test_help_needs_no_subcommand(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, None, "--help")
    assert result.exit_code == 0
    assert "broken  Never." in result.stdout


def test_subcommand_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, None).stdout == "done\n"


def test_unknown_subcommand_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, None, "gone")
    assert result.exit_code == 2
    assert "gone" in result.stderr


def test_completion_knows_the_names() -> None:
    names = [item.value for item in main.shell_complete(click.Context(main), "c")]
    assert names == [name for name in COMMANDS if name.startswith("c")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: spamlit" in result.stdout or name == "train"

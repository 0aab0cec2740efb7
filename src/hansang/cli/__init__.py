"""The command line. Commands are in one file per group; this one gathers them, and says what went wrong.

Nothing heavy is imported before a command needs it: `hansang --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from hansang import __version__
from hansang.cli.bench import bench
from hansang.cli.init import init
from hansang.cli.jobs import jobs
from hansang.cli.models import models
from hansang.cli.predict import predict
from hansang.cli.serve import serve
from hansang.cli.train import train
from hansang.core.errors import HansangError, SettingsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="%(prog)s %(version)s")
def hansang() -> None:
    """A model server: from a saved model to a production REST API in one command.

    \b
    hansang serve                        serve the demo table
    hansang serve iris.onnx gates.py:xor serve a saved model and a function
    hansang predict iris.onnx '[[5.1, 3.5, 1.4, 0.2]]'
    hansang train xor --trainer mlp      train a model into the repository
    """


for _command in (serve, predict, train, models, jobs, init, bench):
    hansang.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `hansang`: the exit status. 1: it did not work; 2: it was asked wrongly."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # Korean on a terminal that has none
    try:
        status = hansang.main(arguments, prog_name="hansang", standalone_mode=False, obj=arguments)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return 2
    except click.ClickException as exc:
        context = getattr(exc, "ctx", None)
        return _fail(exc.format_message(), f"{context.command_path} --help" if context else None, 2)
    except click.Abort:
        return 130
    except SettingsError as exc:
        return _fail(exc.message, exc.hint, 2)
    except HansangError as exc:
        return _fail(exc.message, exc.hint, 1)
    return status if isinstance(status, int) else 0


def _fail(message: str, hint: str | None, status: int) -> int:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return status

"""The command `auditpipeline`: one line and exit code 2 for what the user can mend, never a traceback.

A command is imported when it is asked for, and imports what it needs when it runs: the data plane starts without kopf
and kubernetes, and without 20 MB that only other commands need.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from auditpipeline import __version__
from auditpipeline.core.errors import AuditPipelineError, Failed

FAILED = 1
USAGE = 2
_MODULES = {
    "bootstrap": "bootstrap",
    "gateway-init": "serve",
    "operator": "operator",
    "policy": "policy",
    "preflight": "preflight",
    "redact": "redact",
    "replay": "replay",
    "run": "run",
    "serve": "serve",
    "spool": "spool",
}


class _Commands(click.Group):
    """A group of which each command is found in the module that `_MODULES` names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the alphabet."""
        return sorted([*self.commands, *_MODULES])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None where there is none of that name."""
        if cmd_name not in _MODULES:
            return super().get_command(ctx, cmd_name)
        found = getattr(import_module(f"auditpipeline.cli.{_MODULES[cmd_name]}"), cmd_name.replace("-", "_"))
        return found if isinstance(found, click.Command) else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="auditpipeline", message="%(prog)s %(version)s")
def cli() -> None:
    """Dynamic auditing for every Kubernetes cluster."""


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a part of it failed that a new start may mend, 2 what the user can mend
    (one line on stderr in both cases), 130 interrupted."""
    try:
        outcome = cli.main(args=arguments, prog_name="auditpipeline", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _fail(error.format_message())
    except Failed as error:
        _fail(str(error), FAILED)
    except AuditPipelineError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    sys.exit(outcome if isinstance(outcome, int) else 0)


def _fail(message: str, code: int = USAGE) -> None:
    click.echo(f"auditpipeline: {' '.join(message.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()

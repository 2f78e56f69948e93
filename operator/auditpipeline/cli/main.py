"""The command `auditpipeline`: one line and exit code 2 for what the user can mend, never a traceback.

Commands import what they need when they run, so that the data plane starts without kopf and kubernetes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from auditpipeline import __version__
from auditpipeline.cli.bootstrap import bootstrap
from auditpipeline.cli.operator import operator
from auditpipeline.cli.policy import policy
from auditpipeline.cli.preflight import preflight
from auditpipeline.cli.replay import replay
from auditpipeline.cli.run import run
from auditpipeline.cli.serve import gateway_init, serve
from auditpipeline.cli.spool import spool
from auditpipeline.core.errors import AuditPipelineError

USAGE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="auditpipeline", message="%(prog)s %(version)s")
def cli() -> None:
    """Dynamic auditing for every Kubernetes cluster."""


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


for command in (operator, serve, gateway_init, bootstrap, preflight, policy, run, replay, spool):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 what the user can mend (one line on stderr), 130 interrupted."""
    try:
        outcome = cli.main(args=arguments, prog_name="auditpipeline", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _fail(error.format_message())
    except AuditPipelineError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    sys.exit(outcome if isinstance(outcome, int) else 0)


def _fail(message: str) -> None:
    click.echo(f"auditpipeline: {' '.join(message.split())}", err=True)
    sys.exit(USAGE)


if __name__ == "__main__":
    main()

"""The command line, a file for each command."""

import click

from tinyddpm.cli.doctor import doctor
from tinyddpm.cli.evaluate import evaluate
from tinyddpm.cli.export import export
from tinyddpm.cli.figures import figures
from tinyddpm.cli.output import silence
from tinyddpm.cli.pack import pack
from tinyddpm.cli.program import Program
from tinyddpm.cli.report import report
from tinyddpm.cli.sample import sample
from tinyddpm.cli.train import train
from tinyddpm.ranks import SharedError, is_launched, world

# What several ranks can share
SHARED = ("train", "sample", "doctor")


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110},
    commands=[train, sample, evaluate, doctor, export, pack, figures, report],
)
@click.version_option(package_name="tinyddpm")
@click.pass_context
def main(context: click.Context) -> None:
    """Train and sample denoising diffusion models, written from scratch."""
    several = is_launched() and world().size > 1
    if several and world().rank > 0:
        silence()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    elif several and context.invoked_subcommand not in SHARED:
        raise SharedError(
            f"{context.invoked_subcommand} is the work of one process; start it without mpiexec "
            f"(several can share {', '.join(SHARED)})"
        )

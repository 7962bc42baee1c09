"""The command line, a file for each command."""

import click

from tinyddpm.cli.doctor import doctor
from tinyddpm.cli.evaluate import evaluate
from tinyddpm.cli.export import export
from tinyddpm.cli.figures import figures
from tinyddpm.cli.pack import pack
from tinyddpm.cli.program import Program
from tinyddpm.cli.sample import sample
from tinyddpm.cli.train import train


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110},
    commands=[train, sample, evaluate, doctor, export, pack, figures],
)
@click.version_option(package_name="tinyddpm")
@click.pass_context
def main(context: click.Context) -> None:
    """Train and sample denoising diffusion models, written from scratch."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())

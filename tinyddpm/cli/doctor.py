"""`tinyddpm doctor`."""

from collections.abc import Callable
from typing import Any

import click

import backends
from tinyddpm import doctor as checks
from tinyddpm.cli.configuration import run_config
from tinyddpm.cli.options import configuration_options, device_options, threads_option


@click.command()
@configuration_options
@device_options
@threads_option
def doctor(backend: Callable[[], backends.Backend], **options: Any) -> None:
    """Check the machine, and a configuration before it is trained (options as of `train`)."""
    failed = False
    config, dataset = run_config(options)
    for line in checks.environment():
        click.echo(line)
    for line in checks.threads():
        click.echo(line)
    click.echo(checks.ranks())
    device = backend()
    click.echo(checks.arithmetic(device))
    for check in (*checks.images(config, dataset), *checks.configuration(config, dataset, device)):
        click.echo(f"{'note' if check.note else 'ok  ' if check.ok else 'WARN'} {check.text}")
        failed = failed or not check.ok
    click.echo("some checks warn; see above" if failed else "all is well")

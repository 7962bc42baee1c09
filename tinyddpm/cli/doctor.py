"""`tinyddpm doctor`."""

from typing import Any

import click

import backends
from tinyddpm import doctor as checks
from tinyddpm.cli.options import backend_option, configuration_options, run_config, threads_option


@click.command()
@configuration_options
@backend_option
@threads_option
def doctor(backend: str, **options: Any) -> None:
    """Check the machine, and a configuration before it is trained (options as of `train`)."""
    failed = False
    config, dataset = None, None
    for line in checks.environment():
        click.echo(line)
    config, dataset = run_config(options)
    for line in checks.threads():
        click.echo(line)
    for check in checks.configuration(config, dataset, backends.get(backend)):
        click.echo(f"{'ok  ' if check.ok else 'WARN'} {check.text}")
        failed = failed or not check.ok
    click.echo("some checks warn; see above" if failed else "all is well")

"""`longshore completion`: what a shell reads to complete our commands, options and paths."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")

_EPILOG = """\b
To have it in every shell, put one of these lines into its start-up file:
  bash   eval "$(longshore completion bash)"       ~/.bashrc
  zsh    eval "$(longshore completion zsh)"        ~/.zshrc, after compinit
  fish   longshore completion fish | source        ~/.config/fish/config.fish
"""


@click.command("completion", epilog=_EPILOG)
@click.argument("shell", type=click.Choice(SHELLS), default=lambda: Path(os.environ.get("SHELL", "")).name)
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that teaches SHELL, by default your own, to complete what you type after `longshore`."""
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "longshore", "_LONGSHORE_COMPLETE").source()
    # Click's script for fish ends a help at its first comma.
    click.echo(script.replace('(string split "," $completion)', '(string split --max 1 "," $completion)'))

"""`completion`: the lines that teach a shell to complete commands and flags (click's own)."""

import click
from click.shell_completion import get_completion_class

HELP = """Print what teaches a shell to complete commands and flags.

\b
bash:  holdfast completion bash > ~/.local/share/bash-completion/completions/holdfast
zsh:   holdfast completion zsh > ~/.zfunc/_holdfast    (a folder of your $fpath)
fish:  holdfast completion fish > ~/.config/fish/completions/holdfast.fish
"""


@click.command(help=HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """The script for a shell, under the name that this program was called by."""
    root = context.find_root()
    name = root.info_name or "holdfast"
    variable = f"_{name.replace('-', '_').replace('.', '_')}_COMPLETE".upper()
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(root.command, {}, name, variable).source())

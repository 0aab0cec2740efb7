"""`hansang models convert`: a saved model in a format that runs no code when it is opened."""

from __future__ import annotations

from pathlib import Path

import click

from hansang.cli.flags import dump, json_of


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["json", "skops", "safetensors", "onnx"]), help="By default what fits best.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="By default beside FILE.")
@click.option("--class", "class_", metavar="FILE:CLASS", help="The module that weights belong to: nets.py:Net")
@click.option("--sample", metavar="JSON", help="A row, for a module whose file does not tell its shape.")
@click.option("--trust", multiple=True, metavar="SHA256", help="sha256:... of a FILE that may run its code, apart.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def convert(
    file: Path,
    to: str | None,
    output: Path | None,
    class_: str | None,
    sample: str | None,
    trust: tuple[str, ...],
    as_json: bool,
) -> None:
    """Convert a saved model; what is written is read back and compared first.

    \b
    pickle, joblib    JSON, safetensors without running them; skops, ONNX, safetensors with --trust
    skops             ONNX
    .pt .pth .pt2     safetensors, ONNX
    """
    from hansang.convert.convert import Wanted, convert_file

    given = None if sample is None else json_of(sample, "--sample")
    written, compared = convert_file(Wanted(file, to, class_, given), output, trust)
    if as_json:
        click.echo(dump({"file": str(written), "compared": compared}))
    else:
        click.echo(f"{written}\nread back and compared: {compared}")

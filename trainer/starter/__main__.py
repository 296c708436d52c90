"""This module is the starter model's command line: `build`, `prompts` and `measure`."""

import argparse
import json
import sys
from pathlib import Path

from trainer.starter import MODEL_DIR
from trainer.starter.world import prompts


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.starter", description="The starter model.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the model from generated dialogues")
    build.add_argument("--out", type=Path, default=MODEL_DIR, help="folder to write, replaced (%(default)s)")
    build.add_argument("--seed", type=int, default=1, help="%(default)s")
    build.add_argument("--dialogues", type=_positive, default=85_000, help="training dialogues (%(default)s)")
    build.add_argument("--threads", type=_positive, default=1, help="torch threads (%(default)s)")
    sample = commands.add_parser("prompts", help="print prompts as JSON lines")
    sample.add_argument("--count", type=_positive, default=10, help="%(default)s")
    sample.add_argument("--seed", type=int, default=1, help="%(default)s")
    evaluation = commands.add_parser("measure", help="sample replies and print their statistics")
    evaluation.add_argument("--model", type=Path, default=MODEL_DIR, help="model folder (%(default)s)")
    evaluation.add_argument("--count", type=_positive, default=2000, help="replies to sample (%(default)s)")
    evaluation.add_argument("--seed", type=int, default=1, help="%(default)s")
    evaluation.add_argument("--threads", type=_positive, default=2, help="torch threads (%(default)s)")
    options = parser.parse_args(arguments)

    if options.command == "prompts":
        for prompt in prompts(options.count, options.seed):
            print(json.dumps({"prompt": prompt.prompt, "accept": prompt.accept}, ensure_ascii=False))
    elif options.command == "build":
        if options.out.exists() and not (options.out / "config.json").exists():
            parser.error(f"{options.out} exists and is not a model folder: name another one with --out")
        if not options.out.resolve().parent.is_dir():
            parser.error(
                f"{options.out.resolve().parent} is not a folder: make it, or name another with --out"
            )
        from trainer.starter.build import build as run

        run(options.out, options.seed, options.dialogues, options.threads)
    else:
        if not (options.model / "config.json").exists():
            parser.error(f"no model in {options.model}: build one, or name a folder with --model")
        import torch

        from trainer.starter.measure import load, measure

        torch.set_num_threads(options.threads)
        metrics = measure(*load(options.model), options.count, options.seed)
        print(f"{metrics.table()}\n\n{metrics.tokens_per_second:,.0f} tokens a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())

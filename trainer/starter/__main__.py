"""The starter model's commands: `build`, `prompts` and `measure`."""

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
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.starter", description="The starter model.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the model from text that the builder writes itself")
    build.add_argument("--out", type=Path, default=MODEL_DIR, help="folder to write, replaced (%(default)s)")
    build.add_argument("--seed", type=int, default=1, help="%(default)s")
    build.add_argument(
        "--dialogues", type=_positive, default=85_000, help="dialogues to learn from (%(default)s)"
    )
    build.add_argument("--threads", type=_positive, default=1, help="torch threads (%(default)s)")
    sheet = commands.add_parser("prompts", help="print prompts as JSON lines")
    sheet.add_argument("--count", type=_positive, default=10, help="%(default)s")
    sheet.add_argument("--seed", type=int, default=1, help="%(default)s")
    gauge = commands.add_parser("measure", help="sample replies and print what they show")
    gauge.add_argument("--model", type=Path, default=MODEL_DIR, help="model folder (%(default)s)")
    gauge.add_argument("--count", type=_positive, default=2000, help="replies to sample (%(default)s)")
    gauge.add_argument("--seed", type=int, default=1, help="%(default)s")
    gauge.add_argument("--threads", type=_positive, default=2, help="torch threads (%(default)s)")
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
        measured = measure(*load(options.model), options.count, options.seed)
        print(f"{measured.table()}\n\n{measured.tokens_per_second:,.0f} tokens a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())

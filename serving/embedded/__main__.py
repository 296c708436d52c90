"""The command `python -m serving.embedded` loads the base model, then listens until a signal ends it.
`/health` answers once it is ready."""

import argparse
import os
import sys
from pathlib import Path

import torch
import uvicorn
from transformers.utils.logging import disable_progress_bar

from schemas.errors import StartError
from serving.embedded.model import Model
from serving.embedded.scheduler import Scheduler
from serving.embedded.server import create_app
from serving.engine import KEY_VARIABLE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.embedded", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--max-loras", type=int, default=6, help="adapters in memory at once")
    parser.add_argument("--max-num-seqs", type=int, default=32, help="replies generated at once")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    disable_progress_bar()
    try:
        model = Model(arguments.model)
    except StartError as error:
        sys.exit(error.message)
    scheduler = Scheduler(model, max_sequences=arguments.max_num_seqs, max_adapters=arguments.max_loras)
    uvicorn.run(
        create_app(model, scheduler, arguments.model.name, os.environ.get(KEY_VARIABLE)),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=3,
    )


main()

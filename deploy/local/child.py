"""This wrapper runs a module as a child of `hearken up` and ends it when the parent dies, by whatever cause.

    python -m deploy.local.child serving.embedded --port 1234

The parent holds the write end of standard input and never writes: end of file means that it died.
"""

import os
import runpy
import signal
import sys
import threading


def _terminate_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Runs the module named by the first argument, with the others as its own."""
    threading.Thread(target=_terminate_with_parent, name="parent", daemon=True).start()
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""Runs a module as a child of `hearken up`, and ends it when the parent is gone, however that died.

    python -m deploy.local.child serving.embedded --port 1234

The parent holds the other end of standard input and never writes; the end of file is its death.
"""

import os
import runpy
import signal
import sys
import threading


def _follow_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    threading.Thread(target=_follow_parent, name="parent", daemon=True).start()
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

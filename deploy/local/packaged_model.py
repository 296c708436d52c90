"""A packaged model is a GGUF file in a wheel; it is converted once, into a cache that installations share.

The conversion is written aside and renamed, under a lock, so a process may be killed anywhere: the next one
continues from the downloaded wheel. The digests of what was written are recorded and checked at each start.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.wheel import Wheel, extract
from schemas.errors import StartError
from schemas.policies import file_digest

_RECORD = "conversion.json"
_ASIDE = ".conversion-"
_LOCK_TIMEOUT = 3600  # seconds; another process may be downloading
_CONVERSION_TIMEOUT = 900  # seconds


@dataclass(frozen=True)
class PackagedModel:
    """A model in a wheel: `file` is the GGUF file's path in it and `digest` that file's sha256; `generation`
    are the defaults of its replies, `space` the bytes that download and conversion take, `summary` a line for
    the console, `card` the model card."""

    name: str
    wheel: Wheel
    file: str
    digest: str
    generation: dict[str, Any]
    space: int
    summary: str
    card: str

    @property
    def identity(self) -> str:
        """The sha256 of everything that the converted directory is made from."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def model_cache() -> Path:
    """Returns the folder of converted models: `hearken` in XDG_CACHE_HOME or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearken"


def converted(model: PackagedModel, cache: Path) -> Path:
    """Returns the directory of the converted model, which is made if it is not there or damaged.

    Raises StartError if the wheel cannot be had, the file cannot be converted, or the disk is full.
    """
    directory = cache / model.name
    with _disk_errors(cache):
        if is_conversion(directory, model):
            return directory
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f"{model.name}.lock"):
            if not is_conversion(directory, model):  # no other process has made it meanwhile
                _make(model, directory)
    return directory


def is_conversion(directory: Path, model: PackagedModel) -> bool:
    """Whether the directory holds a conversion of exactly this model, with the recorded digests."""
    try:
        record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
        return bool(record["model"] == model.identity and record["files"] == _digests(directory))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(directory.iterdir()) if path.name != _RECORD}


def _make(model: PackagedModel, directory: Path) -> None:
    """Converts the model and replaces `directory`."""
    cache = directory.parent
    for left in cache.glob(f"{_ASIDE}*"):  # of processes that were killed: the lock is held
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(cache).free
    if free < model.space:
        raise StartError(
            f"The disk of {cache} is full: {free // 2**20} MiB free, but {model.space // 2**20} needed to"
            f" convert {model.name}. Free some, or name a folder on another disk in XDG_CACHE_HOME."
        )
    _say(model.summary)
    with TemporaryDirectory(prefix=_ASIDE, dir=cache) as aside:
        new = Path(aside, "new")
        gguf = _gguf_file(model, Path(aside), cache)
        started = time.monotonic()
        _say(f"Converting it into {directory} (once, about half a minute)…")
        _convert(gguf, new)
        for name, text in {
            "generation_config.json": json.dumps(model.generation, indent=2) + "\n",
            "README.md": model.card,
        }.items():
            (new / name).write_text(text, encoding="utf-8")
        for path in new.iterdir():
            path.chmod(0o644)  # engines may run as another user
        record = {"model": model.identity, "files": _digests(new)}
        (new / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        with suppress(FileNotFoundError):
            directory.rename(Path(aside, "old"))
        new.rename(directory)
    model.wheel.path(cache).unlink(missing_ok=True)
    _say(f"Converted in {time.monotonic() - started:.0f} seconds.")


def _gguf_file(model: PackagedModel, aside: Path, cache: Path) -> Path:
    """Returns the GGUF file: from the installed package if it is there, else from the downloaded wheel.
    Raises StartError if its digest is another one."""
    with suppress(PackageNotFoundError):
        installed = Path(str(distribution(model.wheel.package).locate_file(model.file)))
        if installed.is_file() and file_digest(installed) == model.digest:
            return installed
    gguf = aside / Path(model.file).name
    extract(model.wheel, model.file, gguf, cache)
    if file_digest(gguf) != model.digest:
        raise StartError(f"{model.file} in {model.wheel.requirement} is not the model that is expected.")
    return gguf


def _convert(gguf: Path, directory: Path) -> None:
    """Runs the conversion in a child, which ends with this process. Raises StartError with its message."""
    command = [sys.executable, "-m", "deploy.local.child", "trainer.model.gguf_conversion"]
    with subprocess.Popen(
        [*command, str(gguf), str(directory)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            code = process.wait(_CONVERSION_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise StartError(
                f"The conversion of {gguf.name} took longer than {_CONVERSION_TIMEOUT} seconds."
            ) from None
        said = process.stdout.read().strip() if process.stdout else ""
    if code:
        raise StartError(said or f"The conversion of {gguf.name} ended with exit code {code}: see above.")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds a lock that ends with its process. Raises StartError if another process holds it for too long."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    waiting = False
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StartError(
                        f"Another process has held {path} for {_LOCK_TIMEOUT} seconds."
                    ) from None
                if not waiting:
                    _say("Another process is converting the model; waiting for it…")
                waiting = True
                time.sleep(0.2)
        yield


@contextmanager
def _disk_errors(cache: Path) -> Iterator[None]:
    """Turns errors of the file system below `cache` into StartError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = f"The disk of {cache} is full" if full else f"{cache} cannot be used: {error}"
        raise StartError(f"{what}. Name a folder on another disk in XDG_CACHE_HOME.") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

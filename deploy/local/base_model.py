"""The base model is the starter, SmolLM2, a local directory, or a download from the Hugging Face Hub."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.local.base_check import check_base
from deploy.local.packaged_model import converted, is_conversion, model_cache
from deploy.local.smollm2 import SMOLLM2
from schemas.errors import StartError
from schemas.policies import base_digest
from trainer.starter import MODEL_DIR

_WEIGHTS = "*.safetensors"
_CONFIG = ["*.json", "*.jinja", "*.model", "*.txt"]
_MAKEFILE = Path(__file__).parents[2] / "Makefile"
_OWN = ("starter", "smollm2")
_SOURCE = ".source"
"""The file in a base's directory that names the model of the hub that it is."""


def base_directory(model: str, *, weights: bool = True) -> Path:
    """Returns the directory of `model`: `starter`, `smollm2`, a path, or a hub id such as `Qwen/Qwen3-0.6B`.
    SmolLM2 and models of the hub are downloaded. If `weights` is false, they may be missing, and those of the
    hub are not downloaded.

    Raises StartError if there is no such model, if it has no chat template, or if its files do not fit
    together.
    """
    if model == "smollm2":
        directory = converted(SMOLLM2, model_cache())
    else:
        directory = MODEL_DIR if model == "starter" else Path(model).expanduser()
    if not directory.is_dir():
        directory = _download(model, [*_CONFIG, *([_WEIGHTS] if weights else [])])
    if not (directory / "config.json").is_file() or (weights and not any(directory.glob(_WEIGHTS))):
        raise StartError(f"{directory} is not a model: it needs config.json and {_WEIGHTS}.")
    if not _has_chat_template(directory):
        raise StartError(f"{directory} has no chat template. Use an instruction-tuned model.")
    if weights:
        check_base(directory)
    return directory.resolve()


def download_model(model: str, directory: Path) -> None:
    """Puts `model` into `directory`, unless it is there. What was downloaded is known by its name: the hub is
    not asked again. The starter and directories are compared by digest. Raises StartError as `base_directory`
    and `copy_base_model` do."""
    if _is_downloaded(model, directory):
        return
    copy_base_model(base_directory(model), directory)
    if model not in _OWN and not Path(model).expanduser().is_dir():
        (directory / _SOURCE).write_text(model, encoding="utf-8")


def _is_downloaded(model: str, directory: Path) -> bool:
    """Whether the directory has what was downloaded as `model`, whole."""
    if model == "smollm2":
        return is_conversion(directory, SMOLLM2)
    source = directory / _SOURCE
    if not source.is_file() or source.read_text(encoding="utf-8") != model:
        return False
    try:
        base_directory(str(directory))
    except StartError:
        return False
    return True


def real_model_command(model: str) -> str | None:
    """Returns the command that brings a small real model, where the directory `model` is the starter's, which
    is a toy; else None. From a checkout it is that of its Makefile."""
    if Path(model) != MODEL_DIR.resolve():
        return None
    return "make up MODEL=smollm2" if _MAKEFILE.is_file() else "hearken up --model smollm2"


def licence(directory: Path) -> str | None:
    """Returns the licence that a model's card states, None without one."""
    card = directory / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    stated = re.match(r"---\n(?:.*\n)*?license: *(\S.*)\n(?:.*\n)*?---\n", text)
    return stated[1] if stated else None


def copy_base_model(base: Path, directory: Path) -> None:
    """Replaces `directory` by a copy of `base`, unless their digests are equal.

    The copy is written aside and renamed, so that readers never see part of a model, and of several
    concurrent calls one wins: an equal copy that another has finished is never moved. Raises StartError if
    another base was copied there at the same time.
    """
    if _is_copy(directory, base):
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".base-", dir=directory.parent) as aside:
        shutil.copytree(base, Path(aside, "new"))
        if directory.is_dir():
            if _is_copy(directory, base):  # another process was faster
                return
            with suppress(FileNotFoundError):
                directory.rename(Path(aside, "old"))
        try:
            Path(aside, "new").rename(directory)
        except OSError as error:  # another process was faster
            if not _is_copy(directory, base):
                raise StartError(
                    f"{directory} cannot be replaced: {error}. Is another base being copied there?"
                ) from None


def _is_copy(directory: Path, base: Path) -> bool:
    """Whether the directory is there and has the digest of `base`."""
    try:
        return base_digest(directory) == base_digest(base)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _download(model: str, patterns: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise StartError(
            f"There is no directory {model}, and no model is downloaded without the extra `local`:"
            " pip install 'hearken[local]'."
        ) from None
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise StartError(
            f"There is no directory {model}, and no model of that name could be downloaded ({error}). "
            "Give a directory, a hub id, `starter` or `smollm2`."
        ) from None


def _has_chat_template(directory: Path) -> bool:
    if (directory / "chat_template.jinja").is_file() or (directory / "chat_template.json").is_file():
        return True
    config = directory / "tokenizer_config.json"
    return config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))

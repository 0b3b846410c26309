"""Official files: found, verified by their published MD5, downloaded when missing."""

from __future__ import annotations

import shlex
import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from ...errors import DataError
from ...file import atomic
from .cache import digest

TIMEOUT_S = 30


def fetch(name: str, folders: list[Path], url: str, md5: Mapping[str, str]) -> Path:
    """The first of `folders` that holds any of the files (else the first), with all of them there and verified.

    A missing file is downloaded from `url` + its name. Errors: DataError with the file and the command that fetches it.
    """
    folder = next((d for d in folders if any((d / f).is_file() for f in md5)), folders[0])
    for file, expected in md5.items():
        path = folder / file
        if not path.is_file():
            _download(name, url + file, path, expected)
        elif digest([path], "md5") != expected:
            raise DataError(f"{name}: {path} is corrupt (its MD5 is not {expected}); fetch it again with: {command(url + file, path)}")
    return folder


def command(url: str, path: Path) -> str:
    """The shell command that puts the file there."""
    return f"curl -fL --create-dirs -o {shlex.quote(str(path))} {shlex.quote(url)}"


def _download(name: str, url: str, path: Path, expected: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            if digest([temporary], "md5") != expected:
                raise OSError("what came is not the published file")
    except (OSError, ValueError) as e:  # URLError and HTTPError are OSErrors
        raise DataError(f"{name}: {path} is missing and could not be downloaded ({e}); fetch it with: {command(url, path)}") from e

"""A directory that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from sona_shm.errors import ExportError


@contextlib.contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a directory to write into, which gets its name when all is written.

    Files of two exports can therefore never meet in one directory.  A writer that is killed
    leaves a directory beside it, ``.NAME.`` and eight letters, which may be removed.

    Parameters
    ----------
    path : path
        Of what must not exist yet; directories above it are made.

    Raises
    ------
    ExportError
        If it exists or cannot be written; nothing is left behind but directories above it.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "export")
    >>> with new_directory(target) as work:
    ...     _ = work.joinpath("file").write_text("whole")
    ...     target.exists()
    False
    >>> target.joinpath("file").read_text()
    'whole'
    """
    try:
        target = Path(os.path.realpath(path))  # unlike Path.resolve, no RuntimeError for loops
        if target.exists():
            raise ExportError(
                f"{path} exists already; name a directory that does not, or remove it"
            )
        work = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            work.mkdir(parents=True)
            yield work
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error}; make room or choose another directory"
        ) from None

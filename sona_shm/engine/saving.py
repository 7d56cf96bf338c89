"""What an engine has learned, written to files."""

from __future__ import annotations

import os
from pathlib import Path

from sona_shm.checkpoint.rotation import new_path, save_state
from sona_shm.checkpoint.take import take_state
from sona_shm.engine.routes import RouteChanges
from sona_shm.loops.export import ExportSummary, export_version


class Saving(RouteChanges):
    """The part of `Engine` that saves and exports it.

    Examples
    --------
    >>> import sona_shm as sona
    >>> issubclass(sona.Engine, Saving)
    True
    """

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything that was learned and published to a file; workers and learner go on.

        Lanes are not part of it: records that wait in them, and decisions that wait for their
        feedback, are not saved.

        Parameters
        ----------
        path : path
            A file, which is replaced, or a directory, in which a new file is made.

        Returns
        -------
        Path
            The file: it is on the disk when this returns.

        Raises
        ------
        CheckpointError
            If it could not be written; nothing is left behind, a file that was there is as it was.

        Examples
        --------
        >>> import tempfile, sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=4)
        >>> with sona.Engine.create("doc-save", config) as engine:
        ...     engine.save(Path(tempfile.mkdtemp()) / "saved.safetensors").name
        'saved.safetensors'
        >>> sona.Engine.destroy("doc-save")
        """
        self._memory.require_open()
        state, file = take_state(self._memory, self), Path(path)
        if os.path.isdir(file):  # noqa: PTH112  # unlike Path.is_dir, never an error
            file = new_path(file, state.version)
        save_state(state, file, self._memory.names.engine)
        return file

    def export(self, directory: str | os.PathLike[str]) -> ExportSummary:
        """Write what one published version has learned into files for other programs.

        ``micro_lora/`` and ``base_lora/`` hold the two adapters as PEFT loads them (`read_peft`),
        ``patterns.jsonl`` the patterns (`read_patterns`), and ``preferences.jsonl`` which route
        was clearly better than which other one in each of them (`read_preferences`);
        docs/export.md describes them.  Only reads, needs no learner, and stops nobody.

        Parameters
        ----------
        directory : path
            Of what does not exist yet; it appears whole or not at all.

        Returns
        -------
        ExportSummary

        Raises
        ------
        ExportError
            If the directory exists or cannot be written.
        NonFiniteError
            If what is published is not finite.

        Examples
        --------
        >>> import pathlib, sona_shm as sona, tempfile
        >>> directory = pathlib.Path(tempfile.mkdtemp(), "export")
        >>> with sona.Engine.create("doc-export", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.export(directory)
        ExportSummary(version=0, patterns=0, preferences=0)
        >>> sona.read_peft(directory / "micro_lora").rank
        2
        >>> sona.Engine.destroy("doc-export")
        """
        return export_version(directory, *self._patterns(), self._memory.geometry)

"""What an engine has learned, saved to a file."""

from __future__ import annotations

import os
from pathlib import Path

from sona_shm.checkpoint.rotation import new_path, save_state
from sona_shm.checkpoint.take import take_state
from sona_shm.engine.routes import RouteChanges


class Saving(RouteChanges):
    """The part of `Engine` that saves it.

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
        if file.is_dir():
            file = new_path(file, state.version)
        save_state(state, file, self._memory.names.engine)
        return file

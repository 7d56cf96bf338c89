"""Every error this package raises, in one tree.

::

    SonaError
    ├── ConfigError             (ValueError)         a setting is out of range
    ├── ShapeError              (ValueError)         an array has the wrong shape
    ├── DtypeError              (TypeError)          a value has the wrong type
    ├── NonFiniteError          (ValueError)         NaN or infinity where numbers are expected
    ├── OutOfRangeError         (ValueError)         a number outside its range
    ├── RecordTooLargeError     (ValueError)         a record larger than half a lane
    ├── NoFreeLaneError         (RuntimeError)       more workers than lanes
    ├── NotTheLearner           (RuntimeError)       draining or learning without the lease
    ├── EngineClosed            (RuntimeError)       use after close()
    ├── EngineNotFound          (FileNotFoundError)  no engine of that name
    ├── EngineExists            (FileExistsError)    an engine of that name is there already
    ├── EngineInUse             (EngineExists)       living workers or a learner use the engine
    ├── EngineNotReady          (TimeoutError)       half-made, or still being made
    ├── LayoutMismatch          (RuntimeError)       made by another version of this package
    ├── CorruptSegment          (RuntimeError)       what is in shared memory cannot be right
    ├── EngineForbidden         (PermissionError)    the engine belongs to another user
    ├── SharedMemoryTooSmall    (OSError)            /dev/shm has no room for the engine
    ├── JournalError            (ValueError)         a journal that cannot be read or begun
    ├── ExportError             (ValueError)         an export that cannot be read or written
    └── CheckpointError         (ValueError)         a checkpoint that cannot be read or written

Each message says what was given, what was expected and what to do.
"""

from __future__ import annotations


class SonaError(Exception):
    """Base of all errors of this package.

    Examples
    --------
    >>> issubclass(ShapeError, SonaError) and issubclass(ShapeError, ValueError)
    True
    """


class ConfigError(SonaError, ValueError):
    """A setting is out of range or contradicts another.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.SonaConfig(hidden_dim=0)
    Traceback (most recent call last):
        ...
    sona_shm.errors.ConfigError: hidden_dim is 0, expected an integer from 1 to 65536
    """


class ShapeError(SonaError, ValueError):
    """An array does not have the expected shape; the message names both shapes.

    Examples
    --------
    >>> raise ShapeError("x has shape (3,), expected (4,)")
    Traceback (most recent call last):
        ...
    sona_shm.errors.ShapeError: x has shape (3,), expected (4,)
    """


class DtypeError(SonaError, TypeError):
    """A value has a type that cannot be used or cast safely.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.MicroLoRA(2).forward(["a", "b"])
    Traceback (most recent call last):
        ...
    sona_shm.errors.DtypeError: x has dtype <U1, expected real numbers that convert to float32
    """


class NonFiniteError(SonaError, ValueError):
    """NaN or infinity in an embedding, activation, reward or quality.

    Examples
    --------
    >>> import sona_shm as sona
    >>> with sona.InstantLoop(2) as loop:
    ...     loop.on_trajectory(sona.QueryTrajectory(1, [float("nan"), 0.0]).finalize(0.5))
    Traceback (most recent call last):
        ...
    sona_shm.errors.NonFiniteError: the embedding holds NaN or infinity, expected finite numbers
    """


class OutOfRangeError(SonaError, ValueError):
    """A number outside its range, such as a quality outside [0, 1].

    Examples
    --------
    >>> import sona_shm as sona
    >>> with sona.InstantLoop(2) as loop:
    ...     loop.on_trajectory(sona.QueryTrajectory(1, [1.0, 0.0]).finalize(1.5))
    Traceback (most recent call last):
        ...
    sona_shm.errors.OutOfRangeError: quality is 1.5, expected a number in [0, 1]
    """


class RecordTooLargeError(SonaError, ValueError):
    """A trajectory needs more than half a lane; the message names both sizes.

    Examples
    --------
    >>> issubclass(RecordTooLargeError, ValueError)
    True
    """


class NoFreeLaneError(SonaError, RuntimeError):
    """More processes record than the engine has lanes (``max_workers``).

    Examples
    --------
    >>> issubclass(NoFreeLaneError, RuntimeError)
    True
    """


class NotTheLearner(SonaError, RuntimeError):
    """Draining or learning was asked of a process that does not hold the lease.

    Examples
    --------
    >>> import sona_shm as sona
    >>> engine = sona.Engine.create("doc-lease", sona.SonaConfig(hidden_dim=4))
    >>> try:
    ...     engine.instant.drain_trajectories()
    ... except sona.NotTheLearner:
    ...     print("another process learns")
    another process learns
    >>> engine.close(); sona.Engine.destroy("doc-lease")
    """


class EngineClosed(SonaError, RuntimeError):
    """The engine was closed in this process; attach to it again.

    Examples
    --------
    >>> issubclass(EngineClosed, RuntimeError)
    True
    """


class EngineNotFound(SonaError, FileNotFoundError):
    """No engine of that name on this host.

    Examples
    --------
    >>> import sona_shm as sona
    >>> try:
    ...     sona.Engine.attach("doc-nowhere")
    ... except sona.EngineNotFound as error:
    ...     print(error)
    no engine 'doc-nowhere' on this host; create it with Engine.create or sona learner --create
    """


class EngineExists(SonaError, FileExistsError):
    """An engine of that name exists; attach to it, destroy it, or replace it.

    Examples
    --------
    >>> issubclass(EngineExists, FileExistsError)
    True
    """


class EngineInUse(EngineExists):
    """Living workers or a learner use the engine, so it is neither replaced nor removed.

    Examples
    --------
    >>> issubclass(EngineInUse, EngineExists)
    True
    """


class EngineNotReady(SonaError, TimeoutError):
    """The engine is still being made, or its creator died before it was done.

    Examples
    --------
    >>> issubclass(EngineNotReady, TimeoutError)
    True
    """


class LayoutMismatch(SonaError, RuntimeError):
    """The engine was made by a version of this package with another memory layout.

    Examples
    --------
    >>> issubclass(LayoutMismatch, RuntimeError)
    True
    """


class CorruptSegment(SonaError, RuntimeError):
    """What is in shared memory cannot have been written by this package.

    Examples
    --------
    >>> issubclass(CorruptSegment, RuntimeError)
    True
    """


class EngineForbidden(SonaError, PermissionError):
    """The engine belongs to another user, who does not share it, or alone may remove it.

    Examples
    --------
    >>> issubclass(EngineForbidden, PermissionError)
    True
    """


class SharedMemoryTooSmall(SonaError, OSError):
    """``/dev/shm`` has no room for the engine; the message names the sizes.

    Examples
    --------
    >>> issubclass(SharedMemoryTooSmall, OSError)
    True
    """


class JournalError(SonaError, ValueError):
    """A journal cannot be read, begun, or evaluated with a configuration.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.read_journal("nowhere")
    Traceback (most recent call last):
        ...
    sona_shm.errors.JournalError: there is no journal in nowhere; expected a file, or a \
directory with files journal-*.msgpack
    """


class ExportError(SonaError, ValueError):
    """Adapters, patterns or preferences that cannot be read, or written where they should be.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.read_patterns("nowhere.jsonl")
    Traceback (most recent call last):
        ...
    sona_shm.errors.ExportError: cannot read nowhere.jsonl: No such file or directory
    """


class CheckpointError(SonaError, ValueError):
    """A checkpoint cannot be read, restored or written; nothing was changed.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.Engine.restore("doc-error", "nowhere")
    Traceback (most recent call last):
        ...
    sona_shm.errors.CheckpointError: there is no checkpoint at nowhere; expected a file that \
sona save or Engine.save has written, or a directory of them
    """

"""One engine per process and name: what a web application calls in its request handlers."""

from __future__ import annotations

from sona_shm.engine import Engine
from sona_shm.shm import fork

_engines: dict[str, Engine] = {}


def worker_engine(name: str) -> Engine:
    """The engine of that name in this process, attached at the first call.

    Call it in each request, as you would call ``logging.getLogger``, and keep nothing: where the
    engine was destroyed and made anew, or closed in this process, the next call attaches again.
    Threads share the engine.  After ``os.fork``, as with gunicorn's ``preload_app``, the child
    goes on with its copy and claims a lane of its own at first use.

    With workers that nobody has prepared (``uvicorn --workers N``), call
    ``worker_engine(name).claim_lane()`` once when the application starts: a missing engine or
    lane is an error then.  Not at import: with ``preload_app``, gunicorn imports the application
    before its hooks have made the engine.

    Parameters
    ----------
    name : str

    Returns
    -------
    Engine
        Not to be closed; it ends with the process.

    Raises
    ------
    EngineNotFound
        If there is none, as long as there is none.
    EngineNotReady, LayoutMismatch, CorruptSegment, EngineForbidden
        For the state the name is in.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.Engine.create("doc-worker", sona.SonaConfig(hidden_dim=4)).close()
    >>> worker_engine("doc-worker") is worker_engine("doc-worker")
    True
    >>> worker_engine("doc-worker").close()
    >>> worker_engine("doc-worker").claim_lane()
    0
    >>> sona.Engine.destroy("doc-worker")
    """
    engine = _engines.get(name)
    if engine is not None and engine.is_current:
        return engine
    with fork.guard:  # so that no child is forked with this lock taken, or half an engine
        engine = _engines.get(name)
        if engine is None or not engine.is_current:
            # A former one is not closed: other threads may be at work in it.  It goes with the
            # last of them.
            _engines.pop(name, None)
            engine = _engines[name] = Engine.attach(name)
        return engine

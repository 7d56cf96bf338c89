"""What a supervised router reaches that was trained offline on every route's quality."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from routers.streams import Stream

_FOLDS = 5


def offline_choices(stream: Stream) -> tuple[float, NDArray[np.int64]]:
    """Mean reward and choices of the best of several cross-validated supervised routers.

    Ridge regression and k nearest neighbours predict every route's quality of held-out rows; the
    best is taken in hindsight, so this is an upper bound for what such a router reaches.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold
    from sklearn.neighbors import KNeighborsRegressor

    models: list[Any] = [Ridge(alpha) for alpha in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)]
    models += [KNeighborsRegressor(k) for k in (5, 10, 20, 40, 80, 160)]
    folds = list(KFold(_FOLDS, shuffle=True, random_state=0).split(stream.embedding))
    rows = np.arange(len(stream.embedding))
    best, chosen = -np.inf, np.zeros(len(rows), np.int64)
    for model in models:
        predicted = np.empty_like(stream.quality)
        for train, test in folds:
            model.fit(stream.embedding[train], stream.quality[train])
            predicted[test] = model.predict(stream.embedding[test])
        choice = (predicted - stream.price).argmax(axis=1)
        reward = float(stream.reward[rows, choice].mean())
        if reward > best:
            best, chosen = reward, choice
    return best, chosen

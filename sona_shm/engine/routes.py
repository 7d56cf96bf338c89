"""Routes that come, go and change their price while workers run."""

from __future__ import annotations

from sona_shm import _core
from sona_shm.config import Route
from sona_shm.engine.requests import Requests
from sona_shm.errors import ConfigError


class RouteChanges(Requests):
    """The part of `Engine` that changes its routes.

    Every change is a record in this process's lane: the learner applies it, once, in sequence
    with what it learns.

    Examples
    --------
    >>> import sona_shm as sona
    >>> issubclass(sona.Engine, RouteChanges)
    True
    """

    def add_route(
        self,
        route: Route,
        like: str | int | None = None,
        expected_quality: float | None = None,
        timeout: float = 1.0,
    ) -> bool:
        """Add a route while workers run; no restart, and every worker may choose it at once.

        A new route begins with the mean of all others, and is tried until enough is known of it.
        A route that was retired comes back with what was learned about it.

        Parameters
        ----------
        route : Route
        like : str or int, optional
            A similar route, from whose knowledge the new one starts.
        expected_quality : float, optional
            Quality in [0, 1] to start from, with the weight of five outcomes.
        timeout : float
            Seconds to wait for the learner.

        Returns
        -------
        bool
            False if no learner answered in time, or the lane was full: with a learner, the
            request stands.

        Raises
        ------
        ConfigError
            If the name is in use, or there is no room (`SonaConfig.max_routes`).

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a")])
        >>> with sona.Engine.create("doc-add", config, learner="inline") as engine:
        ...     engine.add_route(sona.Route("b", cost=0.1), like="a")
        ...     engine.route([1.0, 0.0], allowed=["b"]).index
        True
        1
        >>> sona.Engine.destroy("doc-add")
        """
        if not isinstance(route, Route):
            raise ConfigError(f"route is {route!r}, expected a Route")
        instant = self.instant
        similar = _core.NO_ROUTE if like is None else instant.routes.index_of(like)
        if expected_quality is not None and not 0.0 <= expected_quality <= 1.0:
            raise ConfigError(f"expected_quality is {expected_quality!r}, expected 0 to 1")
        rows = instant._snapshot().routes()
        if any(row.name == route.name and row.active for row in rows):
            raise ConfigError(f"the engine has a route {route.name!r} already")
        capacity = self.config.route_capacity()
        if len(rows) >= capacity and all(row.name != route.name for row in rows):
            raise ConfigError(
                f"the engine has {len(rows)} routes, the retired ones included, and room for "
                f"{capacity}; create it with a larger max_routes"
            )
        expected = float("nan") if expected_quality is None else float(expected_quality)
        return self._change_route(_core.ROUTE_ADD, route, timeout, expected, similar)

    def retire_route(self, name: str, timeout: float = 1.0) -> bool:
        """Take a route out of service; what was learned about it is kept.

        Parameters
        ----------
        name : str
        timeout : float
            Seconds to wait for the learner.

        Returns
        -------
        bool
            As `add_route`.

        Raises
        ------
        ConfigError
            If there is no such route.

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-retire", config, learner="inline") as engine:
        ...     _ = engine.retire_route("a")
        ...     engine.route([1.0, 0.0]).route
        'b'
        >>> sona.Engine.destroy("doc-retire")
        """
        self.instant.routes.index_of(name)
        return self._change_route(_core.ROUTE_RETIRE, Route(name), timeout)

    def set_cost(self, name: str, cost: float, timeout: float = 1.0) -> bool:
        """Give a route another cost; scores follow at once, nothing has to be learned again.

        Parameters
        ----------
        name : str
        cost : float
            In the unit of the others.
        timeout : float
            Seconds to wait for the learner.

        Returns
        -------
        bool
            As `add_route`.

        Raises
        ------
        ConfigError
            If there is no such route, or the cost is negative or too large.

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-cost", config, learner="inline") as engine:
        ...     _ = engine.set_cost("a", 0.25)
        ...     engine.stats().routes[0].cost
        0.25
        >>> sona.Engine.destroy("doc-cost")
        """
        self.instant.routes.index_of(name)
        return self._change_route(_core.ROUTE_PRICE, Route(name, cost), timeout)

    def _change_route(
        self,
        operation: int,
        route: Route,
        timeout: float,
        expected: float = float("nan"),
        like: int = _core.NO_ROUTE,
    ) -> bool:
        instant = self.instant
        lane = instant._lane or instant._claim()
        price = self.config.price(route)
        put = lane.change_route(operation, route.name, route.cost, price, expected, like)
        return instant._put(put) and instant.flush(timeout)

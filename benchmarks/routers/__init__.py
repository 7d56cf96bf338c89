"""Routers that the routing benchmark compares, the streams they play, and how they are played."""

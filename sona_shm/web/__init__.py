"""The web monitor: metrics, health, live state and a dashboard of one engine; reads only."""

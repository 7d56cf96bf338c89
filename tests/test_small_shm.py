"""A shared-memory file system that is too small: an error at create, and nothing left behind."""

from __future__ import annotations

from tests.private_shm import run_in_private_shm

TOO_LARGE = """
config = sona.SonaConfig(hidden_dim=256, routes=[sona.Route("a")])
assert config.nbytes() > 2**20
try:
    sona.Engine.create(name, config)
except sona.SharedMemoryTooSmall as error:
    print(error)
    assert error.errno == 28
else:
    raise SystemExit("created")
"""


def test_the_error_names_both_sizes_and_leaves_nothing() -> None:
    output = run_in_private_shm(
        TOO_LARGE
        + """
sizes = config.geometry().sizes()
print(f"{sizes['ring_bytes']:,}")
print(os.listdir("/dev/shm"), os.statvfs("/dev/shm").f_bfree * 4096)
"""
    )
    message, ring, left = output.splitlines()
    assert f"needs {ring} bytes" in message
    assert "are free" in message
    for advice in ("trajectory_capacity", "max_workers", "--shm-size"):
        assert advice in message
    assert left == f"[] {2**20}"


def test_a_smaller_engine_works_afterwards() -> None:
    output = run_in_private_shm(
        TOO_LARGE
        + """
config = sona.SonaConfig(hidden_dim=16, trajectory_capacity=100, max_workers=2, reservoir=64,
                         pattern_clusters=8, pending_decisions=64, routes=[sona.Route("a")])
with sona.Engine.create(name, config, learner="inline") as engine:
    record(engine, 1000)
    assert engine.feedback(engine.route([0.1] * 16).id, 0.5)
    assert engine.instant.metrics.signals_accumulated == 1001
    print(len(os.listdir("/dev/shm")))
sona.Engine.destroy(name)
print(os.listdir("/dev/shm"))
"""
    )
    assert output.splitlines()[1:] == ["4", "[]"]


def test_an_engine_that_lost_the_race_for_the_last_memory_is_removed_whole() -> None:
    """Control fits, and the ring does not: control must not stay."""
    output = run_in_private_shm(
        """
config = sona.SonaConfig(hidden_dim=16, trajectory_capacity=100, max_workers=2,
                         pending_decisions=64)
with open("/dev/shm/filler", "wb") as file:
    free = os.statvfs("/dev/shm").f_bavail * 4096
    file.write(bytes(free - config.geometry().sizes()["control_bytes"] - 4096))
for _ in range(3):
    try:
        sona.Engine.create(name, config)
    except sona.SharedMemoryTooSmall as error:
        assert ".r needs" in str(error), error
    print(os.listdir("/dev/shm"))
os.unlink("/dev/shm/filler")
sona.Engine.create(name, config).close()
sona.Engine.destroy(name)
print(os.listdir("/dev/shm"))
"""
    )
    assert output.splitlines() == ["['filler']"] * 3 + ["[]"]

"""Settings of a stand-alone Loop A."""

from __future__ import annotations

import dataclasses

from sona_shm.config import SonaConfig


@dataclasses.dataclass(frozen=True, slots=True)
class InstantLoopConfig:
    """Settings of a stand-alone `InstantLoop`, with the crate's names and defaults.

    Parameters
    ----------
    micro_lora_rank : int
    micro_lora_lr : float
    buffer_capacity : int
        Typical trajectories that are kept until they are drained.
    flush_threshold : int
        Signals to a flush.

    Examples
    --------
    >>> InstantLoopConfig().micro_lora_rank
    1
    """

    micro_lora_rank: int = 1
    micro_lora_lr: float = 0.001
    buffer_capacity: int = 10000
    flush_threshold: int = 100

    @classmethod
    def from_sona_config(cls, config: SonaConfig) -> InstantLoopConfig:
        """The same settings out of an engine's configuration.

        Examples
        --------
        >>> InstantLoopConfig.from_sona_config(SonaConfig()).micro_lora_lr
        0.002
        """
        return cls(
            config.micro_lora_rank,
            config.micro_lora_lr,
            config.trajectory_capacity,
            config.flush_threshold,
        )

    def to_sona_config(self, hidden_dim: int) -> SonaConfig:
        """The engine that a stand-alone loop makes for itself: one lane, flushed by count only.

        Examples
        --------
        >>> InstantLoopConfig().to_sona_config(64).max_workers
        1
        """
        return SonaConfig(
            hidden_dim=hidden_dim,
            micro_lora_rank=self.micro_lora_rank,
            micro_lora_lr=self.micro_lora_lr,
            # Learned trajectories may keep half of a lane until they are drained.
            trajectory_capacity=2 * (self.buffer_capacity + 1),
            flush_threshold=self.flush_threshold,
            flush_interval_ms=None,
            max_workers=1,
            pending_decisions=1,
        )

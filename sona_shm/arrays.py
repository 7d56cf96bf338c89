"""Coercion of what is not yet a contiguous float32 array; called by the C core."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sona_shm.errors import DtypeError


def as_float32(value: ArrayLike, name: str) -> NDArray[np.float32]:
    """Convert real numbers of any kind to a contiguous float32 array.

    Parameters
    ----------
    value : array_like
        A list, an array of another dtype, or a strided array.
    name : str
        What the value is called in the error message.

    Returns
    -------
    numpy.ndarray of float32, C-contiguous
        A finite value beyond the range of float32 becomes infinity, which the caller refuses.

    Raises
    ------
    DtypeError
        If the value holds no real numbers.

    Examples
    --------
    >>> as_float32([1, 2], "x")
    array([1., 2.], dtype=float32)
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{name} is no array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise DtypeError(
            f"{name} has dtype {array.dtype}, expected real numbers that convert to float32"
        )
    with np.errstate(over="ignore"):
        # ascontiguousarray makes one dimension out of none.
        return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)

"""What the MLX backend's tests share; importing it skips them where mlx is not installed."""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="the MLX backend is not installed")
pytest.importorskip("mlx_lm", reason="the MLX backend is not installed")


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

import mlx.core as mx
import numpy as np

from mlx_rcnn.layers import hard_sigmoid, hard_swish


def test_by_hand():
    x = mx.array([-4.0, -3, -1.5, 0, 1.5, 3, 5])
    sigmoid = [0, 0, 0.25, 0.5, 0.75, 1, 1]  # (x + 3) / 6 between -3 and 3
    np.testing.assert_allclose(np.array(hard_sigmoid(x)), sigmoid, atol=1e-7)
    np.testing.assert_allclose(np.array(hard_swish(x)), np.array(x) * sigmoid, atol=1e-6)
    slope = mx.grad(lambda x: hard_swish(x).sum())(x)
    # x (x + 3) / 6 has the slope (2 x + 3) / 6 between -3 and 3; at the ends torch takes one side
    inner = np.array(slope)[[0, 2, 3, 4, 6]]
    np.testing.assert_allclose(inner, [0, 0, 0.5, 1, 1], atol=1e-6)
    assert hard_swish(x.astype(mx.float16)).dtype == mx.float16

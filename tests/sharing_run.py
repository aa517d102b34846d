"""The command line on one of several machines, which may be killed while it predicts.

    python tests/sharing_run.py CALL COMMAND ...

Started with ``MLX_RANK`` and ``MLX_HOSTFILE``, as ``mlx.launch`` does. In its CALL-th call of
``predict``, counting from 1, the process is killed; 0 for never.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from mlx_rcnn import MaskRCNN
from mlx_rcnn.cli.main import main

if __name__ == "__main__":
    last, own, calls = int(sys.argv[1]), MaskRCNN.predict, []

    def predict(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(self, *args, **options)

    MaskRCNN.predict = predict  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))

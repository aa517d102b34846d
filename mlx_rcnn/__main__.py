"""``python -m mlx_rcnn`` is the ``mlx_rcnn`` command."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())

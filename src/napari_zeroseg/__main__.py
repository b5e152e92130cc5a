"""``python -m napari_zeroseg`` is the CLI."""

import sys

from napari_zeroseg.cli import main

sys.exit(main())

"""``python -m pygrade`` is the ``pygrade`` command."""

import sys

from pygrade.cli import main

sys.exit(main())

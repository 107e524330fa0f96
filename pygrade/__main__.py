"""``python -m pygrade`` is the ``pygrade`` command."""

import sys

from pygrade.cli.main import main

sys.exit(main())

"""`python -m unmask` is the command `unmask`, also where nothing is installed and PYTHONPATH alone is set."""

import sys

from unmask.cli import main

sys.exit(main())

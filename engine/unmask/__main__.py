"""`python -m unmask` is the command `unmask`. It also works without an installation, with only PYTHONPATH set."""

import sys

from unmask.cli import main

sys.exit(main())

"""`python -m engine.cli`: the command where its script is not installed."""

import sys

from engine.cli.main import main

sys.exit(main())

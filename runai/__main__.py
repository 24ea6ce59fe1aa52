"""`python -m runai` is `runai`."""

import sys

from runai.cli import main

sys.exit(main())

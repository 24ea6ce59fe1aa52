"""`python server.py --port 8080`: how the original was started. The same as `runai`."""

import sys

from runai.cli import main

if __name__ == "__main__":
    sys.exit(main())

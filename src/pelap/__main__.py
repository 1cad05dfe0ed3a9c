"""`python -m pelap` works wherever `pelap` does, also under `accelerate launch`."""

import sys

from pelap.cli import main

sys.exit(main())

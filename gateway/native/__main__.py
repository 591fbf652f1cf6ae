"""`python -m gateway.native`: build the C sender."""

import sys

from gateway.native import main

sys.exit(main())

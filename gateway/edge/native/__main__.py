"""`python -m gateway.edge.native`: build the C reader."""

import sys

from gateway.edge.native import READER

sys.exit(READER.main())

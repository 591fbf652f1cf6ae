"""`python -m gateway.broadcast.native`: build the C sender."""

import sys

from gateway.broadcast.native import SENDER

sys.exit(SENDER.main())

"""`python -m gateway.compiled`: compile the room (`make compiled`)."""

import sys

from gateway.compiled.build import main

sys.exit(main())

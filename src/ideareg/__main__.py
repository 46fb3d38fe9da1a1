"""``python -m ideareg``."""

from ideareg.cli import main

main()

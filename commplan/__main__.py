"""``python -m commplan`` is ``commplan``."""

from commplan.cli import main

main()

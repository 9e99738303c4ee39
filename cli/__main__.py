"""``python -m cli`` is ``coder``."""

from cli.main import main

main()

"""The `coder` command: the only package that prints, asks or exits."""

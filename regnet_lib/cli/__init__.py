"""The commands of `regnet`, one file per subject; `regnet_lib.__main__` puts them together.

Every command is a function that returns the exit code. What it needs is imported when it runs, so
that `regnet --help` is quick.
"""

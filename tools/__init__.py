"""What builds and checks the book: run from the repository root as `python -m tools.<name>`."""

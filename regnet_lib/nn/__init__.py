"""Blocks that several networks share; nothing here knows of files, data or training."""

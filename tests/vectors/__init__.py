"""Inputs and outputs that every implementation passes; README.md has the list."""

from pathlib import Path

FOLDER = Path(__file__).parent

"""The ``pygrade`` command."""

"""The console: one HTML file in which a team looks at a policy, moves its weights, and sees what they are worth."""

from pygrade.studio.page import console_page, write_console

__all__ = ["console_page", "write_console"]

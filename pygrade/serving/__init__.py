"""A trained policy or pipeline in front of a user."""

from pygrade.serving.asgi_app import asgi as asgi

"""Options of every stage: frozen dataclasses that import nothing but the standard library."""

"""The subcommands, a module each: its ``Options``, and ``run``, which prints tables and returns the JSON record."""

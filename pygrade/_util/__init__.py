"""Files, hashing, threads, progress and optional imports: tools that know nothing of ranking."""

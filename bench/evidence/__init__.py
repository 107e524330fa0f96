"""Evidence beside the study's worlds: a real log, logs of noise, a shop's raw tables. See docs/PROTOCOL.md."""

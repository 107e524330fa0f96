"""The system as a service: HTTP over the C++ core, and online learning and readings of the arms beside it."""

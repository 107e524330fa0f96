"""The whole ranking system, stage by stage, from raw events to pages."""

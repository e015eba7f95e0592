"""Passes over tile programs, one per file; each only adds detail."""

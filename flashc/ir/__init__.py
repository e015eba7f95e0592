"""flashc."""

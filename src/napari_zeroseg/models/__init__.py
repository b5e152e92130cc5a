"""The networks behind the models; the only rooms that know (x, y)."""

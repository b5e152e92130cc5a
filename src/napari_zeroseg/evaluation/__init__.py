"""A prediction against the truth: what both are made of, how they are matched, and the report."""

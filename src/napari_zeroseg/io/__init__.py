"""Pictures, labels and prompts from and to files."""

"""Fine-tuning: labelled planes in, a model of the user's own out, with figures from planes that it never saw."""

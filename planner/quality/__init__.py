"""A user's own examples before and after quantizing: ask both sides, score, and say what the pairs can show."""

"""Commands that measure, and their parts."""

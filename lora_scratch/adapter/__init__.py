"""From a model to an adapted model, and its file."""

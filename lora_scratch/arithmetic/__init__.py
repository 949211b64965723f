"""New adapters from trained ones: sum, scale, compress."""

"""Device, precision, seeds, processes and safe files."""

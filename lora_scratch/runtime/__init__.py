"""Where and how the arithmetic runs: device, precision, seeds, and files that are whole or absent."""

"""How a benchmark measures, and where its tables go."""

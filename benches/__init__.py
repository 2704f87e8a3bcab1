"""The benchmarks: `make bench`, `make bench-quick` and `make bench-compare`."""

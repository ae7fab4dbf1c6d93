"""Speed and memory, run by `make bench`; nothing here is asserted in tests."""

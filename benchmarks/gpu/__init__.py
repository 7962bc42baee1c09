"""The GPU backend, checked and measured by one command: `python -m benchmarks gpu`.

Read `session` (sections, one after the other, each of which may fail alone), `checks`, `speed`, `lessons`.
"""

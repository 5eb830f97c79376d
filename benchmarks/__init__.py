"""
Measurements of portlisten beside what one would take instead: C{python -m
benchmarks --help}.
"""

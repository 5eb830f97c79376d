"""
Measurements of portlisten and of its alternatives: C{python -m benchmarks --help}.
"""

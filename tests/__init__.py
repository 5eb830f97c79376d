"""
The tests of portlisten.  L{tests.unit} has a folder for each room of the package,
L{tests.integration} starts real processes, and L{tests.support} has helpers for both.
The modules here are programs: C{python -m tests.storm}, for example.
"""

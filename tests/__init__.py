"""
The tests of portlisten: L{tests.unit} has a folder for each of the package's,
L{tests.integration} starts real processes, and L{tests.support} has what several of
them need.  The modules here are programs: C{python -m tests.storm}, for example.
"""

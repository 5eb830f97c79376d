"""
Foreign programs, as they are published, on a listener's ports: C{python -m
tests.programs --help}.

Each module of this package but L{program}, L{python}, L{trying} and C{__main__} has a
list C{PROGRAMS} of L{tests.programs.program.Program}.  To add a program, add a module.
"""

"""
The units of C{contrib/systemd} under a real systemd: C{python -m tests.systemd}.
"""

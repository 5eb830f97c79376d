"""
C{python -m portlisten}.
"""

from portlisten._commands.portlisten import main

main()

"""
C{python -m portlisten}.
"""

from portlisten._commands.execute import main

main()

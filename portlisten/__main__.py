"""
C{python -m portlisten}.
"""

from portlisten.execute import main

main()

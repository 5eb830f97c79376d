"""
C{python -m portlisten}.
"""

import sys

if sys.argv[1:] == ["supervised-listener"]:
    # Only a supervisor starts this command.  Clients wait meanwhile, and so it loads
    # nothing of the other commands.
    from portlisten._commands.supervised_listener import run

    run()
elif sys.argv[1:] == ["supervised-monitor"]:
    from portlisten._commands.supervised_monitor import run

    run()
else:
    from portlisten._commands.portlisten import main

    main()

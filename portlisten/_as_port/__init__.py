"""
A program that knows only the number of its port: C{portlisten as-port} runs it in this
process, and joins a listener where the program calls C{reactor.listenTCP}.
"""

"""
The supervisor: it keeps the privilege to bind and to become users, holds all sockets,
and starts the listener and the workers of one file.
"""

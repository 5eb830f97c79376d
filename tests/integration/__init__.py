"""
Tests that start real C{twistd} processes.
"""

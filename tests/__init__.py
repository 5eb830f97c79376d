"""
The tests of portlisten: units here, one module for each of its own, and real
processes in L{tests.integration}.
"""

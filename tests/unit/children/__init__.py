"""
Tests for L{portlisten._supervisor}.
"""

"""
Tests for L{portlisten._screen}.
"""

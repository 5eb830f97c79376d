"""
Tests for L{portlisten._monitor}.
"""

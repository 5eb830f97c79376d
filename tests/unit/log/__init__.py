"""
Tests for L{portlisten._log}.
"""

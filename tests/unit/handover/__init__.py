"""
Tests of the room C{portlisten._handover}.
"""

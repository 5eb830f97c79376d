"""
Processes that this one starts, watches, starts again and ends.
"""

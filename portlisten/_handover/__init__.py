"""
The handover: a listener is replaced by its successor, and no client is refused.
"""

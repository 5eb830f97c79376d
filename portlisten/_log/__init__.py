"""
The log: its two formats, and how it is written without waiting for a reader.
"""

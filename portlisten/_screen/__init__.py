"""
What an operator is shown, before it is known how: in a terminal, as plain text, or by a
web browser.
"""

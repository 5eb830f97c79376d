"""
What several tests need, each subject in a module.
"""

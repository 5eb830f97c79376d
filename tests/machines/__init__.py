"""
Several machines behind a load balancer: C{python -m tests.machines}.
"""

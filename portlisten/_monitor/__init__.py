"""
What a browser, Prometheus and a load balancer ask: the status page, metrics and health.
"""

"""Integrations with frameworks, task queues and monitoring, and the dashboard."""

"""Events of a manager, and their consumers: logs, audit trail, metrics, traces, reports."""

"""What happens, told to whoever wants to know: events, metrics, traces, logs."""

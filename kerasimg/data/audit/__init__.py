"""What `kerasimg data check` asks of a data set."""

"""What ``weather.py`` needs besides the engine: a record, a rival, a stopwatch, maps."""

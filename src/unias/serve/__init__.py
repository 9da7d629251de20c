"""Models at work on the line: over HTTP, from a hot folder, out to webhooks and MQTT."""

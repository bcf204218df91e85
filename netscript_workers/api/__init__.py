"""The HTTP API, for people and programs; machines that post webhooks don't come through here."""

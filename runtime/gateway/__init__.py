"""The HTTP edge: OpenAI's API in front of a token stream."""

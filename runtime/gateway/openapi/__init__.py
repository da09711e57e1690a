"""The service's own OpenAPI 3.1 document, made of the tables by which requests are read."""

"""The search service: one open index behind HTTP; ``application.make_app`` is where it is put together."""

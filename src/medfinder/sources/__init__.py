"""Where raw examinations come from: each source turns a folder or server into ``Study`` records."""

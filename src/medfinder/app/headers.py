"""What every answer of our web pages tells a browser: run our own files only, keep nothing, talk to nobody else.

In: what a page may do beyond that. Out: response headers.
"""


def page_headers(*, images: str = "", workers: str = "", scripts: str = "", fetches: str = "") -> dict[str, str]:
    """Give the headers of a page that loads everything from its own server.

    Args:
        images, workers, scripts, fetches: further sources in the words of a Content-Security-Policy, e.g. ``"blob:"``.

    Example:
        >>> page_headers(images="blob:")["Content-Security-Policy"].split("; ")[3]
        "img-src 'self' blob:"
    """
    sources = {"script-src": scripts, "style-src": "", "img-src": images, "connect-src": fetches}
    rules = ["default-src 'none'", *(f"{name} 'self' {more}".strip() for name, more in sources.items())]
    if workers:
        rules.append(f"worker-src 'self' {workers}")
    rules += ["form-action 'none'", "frame-ancestors 'none'", "base-uri 'none'"]
    return {
        "Content-Security-Policy": "; ".join(rules),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }

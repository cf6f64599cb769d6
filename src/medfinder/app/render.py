"""Pages out of templates: the one place that knows Jinja.

In: the name of a file in ``templates`` and what it is filled with. Out: HTML with every value escaped, but for what is
``Markup`` already. Refused: a template that asks for a value nobody gave.
"""

from collections.abc import Mapping
from typing import Any

from medfinder.errors import MissingExtraError

try:
    import jinja2
    from markupsafe import Markup as Markup
except ImportError as error:
    raise MissingExtraError("Jinja2", "page") from error


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medfinder.app"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)

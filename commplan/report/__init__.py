"""An evaluation in the forms its readers want: markdown for the Prefect UI, an HTML page, JSON and CSV.

Tells counts and sentences only: no address, no name, no text that a recipient wrote.
"""

from commplan.report.export import to_csv, to_json
from commplan.report.html import to_html
from commplan.report.markdown import to_markdown

__all__ = ["to_csv", "to_html", "to_json", "to_markdown"]

"""Contact files: people in a CSV or XLSX file, imported as a table that a plan's audience can be.

Never imports half a file, and never guesses at a number that a spreadsheet has already mangled.
"""

from commplan.contacts.load import ImportReport, import_file, is_imported, source_url

__all__ = ["ImportReport", "import_file", "is_imported", "source_url"]

"""The cells of an HTML table, as a browser shows them."""

from html.parser import HTMLParser


def html_cells(text):
    """Return the texts of the cells, row by row; a line break is a newline."""
    rows = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append("")
            elif tag == "br":
                rows[-1][-1] += "\n"

        def handle_data(self, data):
            if rows:
                rows[-1][-1] += data

    Parser().feed(text)
    return rows

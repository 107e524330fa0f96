"""A page as its reader sees it: headings, rows of tables, pictures and words."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input"}


class HtmlPage(HTMLParser):
    """headings: of sections. rows: cells of each row of a table. pictures: (label, class) of each.

    tags: names of all elements. own: the rows that stand out. text: what is written, without scripts and styles.
    """

    def __init__(self, source):
        super().__init__()
        self.headings, self.rows, self.pictures, self.tags, self.own, self.text = [], [], [], set(), [], ""
        self.open = []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if values.get("role") == "img":
            self.pictures.append((values["aria-label"], values["class"]))
        if tag == "tr":
            self.rows.append([])
            self.own += [self.rows[-1]] if values.get("class") == "own" else []
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if {"script", "style"} & set(self.open):
            return
        self.text += data
        if "h2" in self.open:
            self.headings[-1] += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
